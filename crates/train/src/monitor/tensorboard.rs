//! TensorBoard's event files: TFRecords of `Event` messages (tensorflow/core/util/event.proto), of which we write the
//! few fields that scalars need. A record is its length (u64), the length's masked CRC, the data and the data's
//! masked CRC, little-endian (tensorflow/core/lib/io/record_writer.h).

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Metrics, TrainError};

#[derive(Debug)]
pub(super) struct EventFile {
    file: fs_err::File,
}

impl EventFile {
    pub(super) fn create(directory: &Path, host: &str) -> Result<Self, TrainError> {
        fs_err::create_dir_all(directory)?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("events.out.tfevents.{seconds}.{host}.{}", std::process::id());
        let file = fs_err::OpenOptions::new().create(true).append(true).open(directory.join(name))?;
        let mut events = Self { file };
        // The version comes first, as field 3 of an event.
        events.event(0, &bytes_field(3, b"brain.Event:2"))?;
        Ok(events)
    }

    /// Says that what other files have from `update` on is out of date: field 7, a `SessionLog` with status START.
    pub(super) fn start_at(&mut self, update: u64) -> Result<(), TrainError> {
        self.event(update + 1, &bytes_field(7, &varint_field(1, 1)))
    }

    pub(super) fn scalars(
        &mut self,
        update: u64,
        metrics: &Metrics,
        tag: impl Fn(&str) -> String,
    ) -> Result<(), TrainError> {
        let values: Vec<u8> = metrics
            .iter()
            .flat_map(|(name, value)| {
                let mut scalar = bytes_field(1, tag(name).as_bytes());
                // simple_value: field 2, fixed 32 bits.
                scalar.push(2 << 3 | 5);
                scalar.extend((value as f32).to_le_bytes());
                bytes_field(1, &scalar)
            })
            .collect();
        self.event(update, &bytes_field(5, &values))
    }

    /// Wall time (field 1, fixed 64 bits) and step (field 2), then `what`.
    fn event(&mut self, update: u64, what: &[u8]) -> Result<(), TrainError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut event = vec![1 << 3 | 1];
        event.extend(now.to_le_bytes());
        event.extend(varint_field(2, update));
        event.extend(what);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        Ok(self.file.write_all(&record)?)
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn varint_field(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes_field(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// CRC-32C (Castagnoli), rotated and offset as TFRecord has it.
pub(super) fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
