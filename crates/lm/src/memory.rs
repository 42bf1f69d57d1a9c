//! How much memory keys and values may take when nobody said so.

/// Most the default budget takes on the CPU: beyond this, more parallel sequences gain nothing there.
const LARGEST_DEFAULT_BYTES: u64 = 512 << 20;
/// On a GPU, whose free memory candle does not report.
const GPU_DEFAULT_BYTES: u64 = 4 << 30;
/// Prompt and answer are each rounded up to whole panels of 32 keys.
const ROUNDING: usize = 64;

/// The default budget: 512 MiB or one full context (of at most 8192 tokens), whichever is more, but
/// never over half of the available memory.
pub(crate) fn default_budget(on_cpu: bool, slot_bytes: u64, context_length: usize) -> u64 {
    if !on_cpu {
        return GPU_DEFAULT_BYTES;
    }
    let one_context = slot_bytes * (context_length.min(8192) + ROUNDING) as u64;
    let half = available_memory_bytes().map_or(u64::MAX, |bytes| bytes / 2);
    LARGEST_DEFAULT_BYTES.max(one_context).min(half)
}

/// Memory this process could still get: the smaller of what the kernel reports and what is left of the
/// cgroup's limit (containers). `None` where neither can be read.
#[must_use]
pub fn available_memory_bytes() -> Option<u64> {
    let system = fs_err::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text));
    let limit = read_number("/sys/fs/cgroup/memory.max");
    let used = read_number("/sys/fs/cgroup/memory.current");
    let cgroup = limit.map(|limit| limit.saturating_sub(used.unwrap_or(0)));
    match (system, cgroup) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs_err::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        assert_eq!(parse_meminfo("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_meminfo("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn the_default_holds_a_context_and_stays_bounded() {
        assert!(default_budget(true, 1 << 10, 2048) <= LARGEST_DEFAULT_BYTES);
        assert_eq!(default_budget(false, 1 << 10, 2048), GPU_DEFAULT_BYTES);
    }
}
