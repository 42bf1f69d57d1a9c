/// What one input file may make the process hold. Defaults fit every benchmark we know many times over;
/// they exist so that a hostile or broken file ends in an error and not in an exhausted machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One JSONL line or CSV record, in bytes.
    pub row_bytes: u64,
    /// One string or list as JSON text, in bytes.
    pub field_bytes: u64,
    /// All decompressed bytes of one file.
    pub unpacked_bytes: u64,
    /// Decompressed bytes per compressed byte, judged once `ratio_from_bytes` have been unpacked.
    pub unpack_ratio: u64,
    pub ratio_from_bytes: u64,
    /// Files that unpack to no more than this in total are held in memory; larger ones are streamed.
    pub memory_bytes: u64,
}

impl Limits {
    /// Bytes of a parquet file that are decoded together: several blocks fit in memory.
    pub(crate) fn block_bytes(&self) -> u64 {
        (self.memory_bytes / 8).max(1 << 16)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            row_bytes: 64 << 20,
            field_bytes: 32 << 20,
            unpacked_bytes: 64 << 30,
            unpack_ratio: 1000,
            ratio_from_bytes: 16 << 20,
            memory_bytes: 256 << 20,
        }
    }
}
