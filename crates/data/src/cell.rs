use polars::prelude::{AnyValue, DataFrame, Field};
use serde_json::{Number, Value, json};

use crate::guard::guarded;
use crate::{Row, time};

/// Row `index` of a frame, fields in column order. `Err` names the field that could not be read.
pub(crate) fn row_of(frame: &DataFrame, index: usize) -> Result<Row, (String, String)> {
    frame
        .columns()
        .iter()
        .map(|column| {
            let name = column.name().to_string();
            match cell_of(column, index) {
                Ok(value) => Ok((name, value)),
                Err(message) => Err((name, message)),
            }
        })
        .collect()
}

/// Cell `index` of a column as JSON.
pub(crate) fn cell_of(column: &polars::prelude::Column, index: usize) -> Result<Value, String> {
    guarded(|| json_of(&column.get(index).map_err(|error| error.to_string())?))
        .unwrap_or_else(|| Err(format!("a value of type {} could not be read", column.dtype())))
}

/// A cell as JSON. Integers, floats, strings, booleans, lists and structs map to themselves; NaN and
/// infinities, which JSON lacks, become null; dates and times become text, see [`crate::time`]; binary
/// becomes its length and bytes in hexadecimal.
fn json_of(cell: &AnyValue<'_>) -> Result<Value, String> {
    Ok(match cell {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(v) => json!(v),
        AnyValue::UInt8(v) => json!(v),
        AnyValue::UInt16(v) => json!(v),
        AnyValue::UInt32(v) => json!(v),
        AnyValue::UInt64(v) => json!(v),
        AnyValue::Int8(v) => json!(v),
        AnyValue::Int16(v) => json!(v),
        AnyValue::Int32(v) => json!(v),
        AnyValue::Int64(v) => json!(v),
        AnyValue::Float32(v) => number(f64::from(*v)),
        AnyValue::Float64(v) => number(*v),
        AnyValue::Date(days) => json!(time::date(i64::from(*days))),
        AnyValue::Datetime(value, unit, zone) => {
            json!(time::date_time(*value, *unit, zone.map(ToString::to_string).as_deref())?)
        }
        AnyValue::DatetimeOwned(value, unit, zone) => {
            json!(time::date_time(*value, *unit, zone.as_ref().map(ToString::to_string).as_deref())?)
        }
        AnyValue::List(items) => {
            Value::Array(items.iter().map(|item| json_of(&item)).collect::<Result<_, _>>()?)
        }
        AnyValue::Struct(_, _, fields) => {
            object(fields.iter().zip(cell._iter_struct_av()).map(|(field, value)| (field, json_of(&value))))?
        }
        // What a column of one row gives; `_iter_struct_av` cannot take it.
        AnyValue::StructOwned(parts) => {
            object(parts.1.iter().zip(&parts.0).map(|(field, value)| (field, json_of(value))))?
        }
        AnyValue::Binary(bytes) => binary(bytes),
        AnyValue::BinaryOwned(bytes) => binary(bytes),
        // Texts and categories.
        other => match other.get_str() {
            Some(text) => json!(text),
            None => return Err(format!("values of type {} are not read", other.dtype())),
        },
    })
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn object<'a>(cells: impl Iterator<Item = (&'a Field, Result<Value, String>)>) -> Result<Value, String> {
    let fields = cells.map(|(field, value)| Ok((field.name().to_string(), value?)));
    fields.collect::<Result<_, String>>().map(Value::Object)
}

fn binary(bytes: &[u8]) -> Value {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    json!({ "bytes": bytes.len(), "hex": hex })
}
