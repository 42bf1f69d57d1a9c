//! Damaged parquet files: an error or other values, never the end of the process. A test that is aborted
//! has failed: that is what these are about.

use super::*;

/// SplitMix64 (Steele et al. 2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Opens the bytes as a file and reads all rows, held in memory and streamed. True where both worked.
fn readable(dir: &Path, bytes: &[u8]) -> bool {
    let path = dir.join("damaged.parquet");
    fs_err::write(&path, bytes).unwrap();
    [offline(), streaming()].iter().all(|roots| match open(roots, &file_spec(&path)) {
        Ok(dataset) => dataset.iter().all(|row| row.is_ok()),
        Err(error) => {
            assert!(error.to_string().contains("damaged.parquet"), "{error}");
            assert!(error.hint().is_some(), "{error}");
            false
        }
    })
}

fn columns() -> [Column; 5] {
    [
        Column::new("z", ColumnKind::Text),
        Column::new("a", ColumnKind::Integer),
        Column::new("x", ColumnKind::Number),
        Column::new("ok", ColumnKind::Boolean),
        Column::new("n", ColumnKind::Json),
    ]
}

#[test]
fn every_byte_of_a_small_file_may_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole.parquet");
    write_parquet(&path, &columns(), sample_rows(6)).unwrap();
    let whole = fs_err::read(&path).unwrap();
    assert!(readable(dir.path(), &whole));
    let mut refused = 0;
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            refused += usize::from(!readable(dir.path(), &bytes));
        }
    }
    assert!(refused > whole.len(), "only {refused} of {} were noticed", 3 * whole.len());
}

#[test]
fn five_hundred_bytes_of_a_larger_file_may_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole.parquet");
    write_parquet(&path, &columns(), sample_rows(3000)).unwrap();
    let whole = fs_err::read(&path).unwrap();
    let mut draw = Draw(7);
    for _ in 0..500 {
        let mut bytes = whole.clone();
        let at = draw.below(bytes.len());
        bytes[at] ^= 1 << draw.below(8);
        readable(dir.path(), &bytes);
    }
}

#[test]
fn promise_34_published_files_may_be_damaged() {
    let Some(shared) = evalign_testkit::shared("published_files_may_be_damaged") else { return };
    let dir = tempfile::tempdir().unwrap();
    // Lists of texts, dictionaries, snappy: what pyarrow writes.
    let whole = fs_err::read(shared.join("data/cais/mmlu/all/dev-00000-of-00001.parquet")).unwrap();
    let mut draw = Draw(11);
    assert!(readable(dir.path(), &whole));
    for round in 0..500 {
        let mut bytes = whole.clone();
        // Half of them where page headers are.
        let at = if round % 2 == 0 { draw.below(bytes.len()) } else { draw.below(400) };
        bytes[at] ^= 1 << draw.below(8);
        readable(dir.path(), &bytes);
    }
}

/// The header of the first page: its number of values and both of its sizes, made enormous.
#[test]
fn a_page_that_promises_gigabytes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole.parquet");
    write_parquet(&path, &columns()[1..2], sample_rows(6)).unwrap();
    let whole = fs_err::read(&path).unwrap();
    let mut refused = 0;
    // Any five bytes behind the magic number read as the largest 32-bit number.
    for at in 4..40 {
        let mut bytes = whole.clone();
        bytes[at..at + 5].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff, 0x0f]);
        refused += usize::from(!readable(dir.path(), &bytes));
    }
    assert!(refused > 20, "{refused}");
}
