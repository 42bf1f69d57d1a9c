use serde_json::{Map, Value};
use serde_saphyr::options::NonFiniteFloatPolicy;

/// Bytes of a block that is read: more is no metadata.
const LARGEST: usize = 64 << 10;

/// The fields of a YAML block between two lines `---`, the lines included.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn front_matter(block: &str) -> Result<Map<String, Value>, String> {
    if block.len() > LARGEST {
        return Err(format!("it is larger than {LARGEST} bytes"));
    }
    let inside = block.split_once('\n').map_or("", |(_, rest)| rest);
    let inside = inside.trim_end().trim_end_matches(['-', '.']);
    if inside.trim().is_empty() {
        return Ok(Map::new());
    }
    // `lang: no` is a language and `00123` a postcode; one `.nan` is no reason to lose the rest.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
    };
    serde_saphyr::from_str_with_options(inside, options).map_err(|error| {
        let said = error.to_string();
        said.lines().next().unwrap_or_default().to_owned()
    })
}
