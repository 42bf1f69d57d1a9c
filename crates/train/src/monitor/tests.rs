use serde_json::json;

use super::report::page;
use super::*;
use crate::{Alarm, AlarmKind, Metrics};

fn metrics(values: &[(&str, f64)]) -> Metrics {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn lines_of_updates_that_are_done_again_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::open(directory.path(), "host").unwrap();
    for update in 1..=6 {
        let metrics = metrics(&[("loss", 0.1 * update as f64)]);
        monitor.event(&Event::Logged { update, metrics: &metrics }).unwrap();
    }
    drop(monitor);
    let path = directory.path().join("metrics.jsonl");
    // The process was killed while it wrote.
    let text = fs_err::read_to_string(&path).unwrap();
    fs_err::write(&path, &text[..text.len() - 4]).unwrap();
    let mut monitor = Monitor::open(directory.path(), "host").unwrap();
    monitor.event(&Event::Started { update: 4, updates: 6, num_tokens: 0 }).unwrap();
    for update in 5..=6 {
        let metrics = metrics(&[("loss", 0.1 * update as f64)]);
        monitor.event(&Event::Logged { update, metrics: &metrics }).unwrap();
    }
    assert_eq!(fs_err::read_to_string(&path).unwrap(), text);
}

/// Reads the records back as the format's description has it.
#[test]
fn event_files_hold_checked_records() {
    let directory = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::open(directory.path(), "host").unwrap();
    let metrics = metrics(&[("loss", 0.5), ("rewards/chosen", 1.5)]);
    monitor.event(&Event::Logged { update: 300, metrics: &metrics }).unwrap();
    let file = fs_err::read_dir(directory.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs_err::read(file).unwrap();
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(crc(at + 8), tensorboard::masked_crc(&bytes[at..at + 8]));
        let data = &bytes[at + 12..at + 12 + length];
        assert_eq!(crc(at + 12 + length), tensorboard::masked_crc(data));
        records.push(data.to_vec());
        at += length + 16;
    }
    assert_eq!(records.len(), 2);
    let holds = |record: &[u8], text: &[u8]| record.windows(text.len()).any(|part| part == text);
    assert!(holds(&records[0], b"brain.Event:2"));
    assert!(holds(&records[1], b"\x0a\x0atrain/loss\x15\x00\x00\x00\x3f"));
    // Step 300 as a varint in field 2.
    assert!(holds(&records[1], b"\x10\xac\x02"));
}

/// The check value of CRC-32C, masked.
#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(
        tensorboard::masked_crc(b"123456789"),
        0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8)
    );
}

#[test]
fn the_report_holds_curves_alarms_and_samples_and_nothing_that_runs() {
    let alarm = json!({"step": 2, "alarm": AlarmKind::GradientSpike, "message": "<b>norm</b>"});
    let lines = [json!({"step": 1, "loss": 0.7}), alarm, json!({"step": 2, "loss": 0.6, "eval_loss": 0.65})];
    let lines: Vec<Line> = lines.into_iter().map(|line| line.as_object().unwrap().clone()).collect();
    let sample = SampledText {
        prompt: "<script>x</script>".to_owned(),
        before: "a".to_owned(),
        after: Some("b".to_owned()),
    };
    let html = page("run", &[("model".to_owned(), "m & n".to_owned())], &[sample], &lines);
    assert!(html.contains("<polyline") && html.contains("eval_loss") && html.contains("m &amp; n"));
    assert!(html.contains("&lt;b&gt;norm") && !html.contains("<script"));
    assert!(!html.contains("http"), "the page refers to something outside");
}

#[test]
fn alarms_are_lines_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::open(directory.path(), "host").unwrap();
    let alarm = Alarm { update: 3, kind: AlarmKind::LengthDrift, message: "long".to_owned() };
    monitor.event(&Event::Alarm(&alarm)).unwrap();
    let lines = read_metrics(&directory.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines[0]["alarm"], json!("length_drift"));
}
