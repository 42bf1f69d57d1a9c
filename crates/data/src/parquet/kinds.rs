use polars::prelude::ArrowDataType as Kind;

/// What to do about a column that is not read.
pub(crate) const CONVERT: &str = "write the column as text or as a number";

/// What a type is called that cannot be read, or has a part that cannot; `None` for one that can.
pub(super) fn unread(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Null
        | Kind::Boolean
        | Kind::Int8
        | Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::UInt8
        | Kind::UInt16
        | Kind::UInt32
        | Kind::UInt64
        | Kind::Float32
        | Kind::Float64
        | Kind::Timestamp(_, _)
        | Kind::Date32
        | Kind::Date64
        | Kind::Binary
        | Kind::FixedSizeBinary(_)
        | Kind::LargeBinary
        | Kind::BinaryView
        | Kind::Utf8
        | Kind::LargeUtf8
        | Kind::Utf8View => None,
        Kind::List(item) | Kind::LargeList(item) | Kind::Map(item, _) => unread(&item.dtype),
        Kind::Struct(fields) => fields.iter().find_map(|field| unread(&field.dtype)),
        Kind::Dictionary(_, values, _) => unread(values),
        Kind::Decimal(_, _) | Kind::Decimal32(_, _) | Kind::Decimal64(_, _) | Kind::Decimal256(_, _) => {
            Some("decimal")
        }
        Kind::Time32(_) | Kind::Time64(_) => Some("time of day"),
        Kind::Duration(_) => Some("duration"),
        Kind::Interval(_) => Some("interval"),
        Kind::FixedSizeList(_, _) => Some("list of fixed size"),
        Kind::Float16 => Some("float16"),
        Kind::Int128 | Kind::UInt128 => Some("integer of 128 bits"),
        Kind::Union(_) => Some("union"),
        Kind::Extension(_) => Some("extension"),
        Kind::Unknown => Some("unknown"),
    }
}
