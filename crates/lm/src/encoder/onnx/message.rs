//! The part of ONNX's file format (onnx.proto of ONNX 1.16, IR version 8) that describes a graph of known
//! operators: Protocol Buffers, written field by field.

/// IR version of the file: the first with operator set 17.
const IR_VERSION: u64 = 8;
/// The set that has LayerNormalization.
const OPERATOR_SET: u64 = 17;
/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const INT64: u64 = 7;
/// `AttributeProto.AttributeType`.
const ATTRIBUTE_FLOAT: u64 = 1;
const ATTRIBUTE_INT: u64 = 2;
const ATTRIBUTE_INTS: u64 = 7;

/// Bytes of one message.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

/// What an operator is told besides its inputs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute<'a> {
    Int(&'a str, i64),
    Ints(&'a str, &'a [i64]),
    Float(&'a str, f32),
}

impl Attribute<'_> {
    fn message(self) -> Message {
        let mut message = Message::default();
        let kind = match self {
            Self::Int(name, value) => {
                message.text(1, name);
                message.number(3, value.cast_unsigned());
                ATTRIBUTE_INT
            }
            Self::Ints(name, values) => {
                message.text(1, name);
                values.iter().for_each(|value| message.number(8, value.cast_unsigned()));
                ATTRIBUTE_INTS
            }
            Self::Float(name, value) => {
                message.text(1, name);
                message.float(2, value);
                ATTRIBUTE_FLOAT
            }
        };
        message.number(20, kind);
        message
    }
}

/// A graph under construction. Values are named by the operators that make them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    message: Message,
    nodes: usize,
}

impl Graph {
    /// A constant; `values` row-major.
    pub(super) fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.tensor(name, FLOAT, shape, bytemuck::cast_slice(values))
    }

    pub(super) fn integers(&mut self, name: &str, values: &[i64]) -> String {
        self.tensor(name, INT64, &[values.len()], bytemuck::cast_slice(values))
    }

    fn tensor(&mut self, name: &str, kind: u64, shape: &[usize], bytes: &[u8]) -> String {
        let mut tensor = Message::default();
        shape.iter().for_each(|size| tensor.number(1, *size as u64));
        tensor.number(2, kind);
        tensor.text(8, name);
        tensor.bytes(9, bytes);
        self.message.message(5, &tensor);
        name.to_owned()
    }

    /// An operator with one output, whose name is returned.
    pub(super) fn node(&mut self, operator: &str, inputs: &[&str], attributes: &[Attribute<'_>]) -> String {
        self.nodes += 1;
        let output = format!("{operator}_{}", self.nodes);
        self.named(operator, inputs, attributes, &output);
        output
    }

    /// As [`Graph::node`], with a name for the output.
    pub(super) fn named(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: &[Attribute<'_>],
        output: &str,
    ) {
        let mut node = Message::default();
        inputs.iter().for_each(|input| node.text(1, input));
        node.text(2, output);
        node.text(3, output);
        node.text(4, operator);
        attributes.iter().for_each(|attribute| node.message(5, &attribute.message()));
        self.message.message(1, &node);
    }

    /// Integers that are given at each call, by the names of their dimensions.
    pub(super) fn input(&mut self, name: &str, dimensions: &[&str]) {
        let described = value(name, INT64, dimensions);
        self.message.message(11, &described);
    }

    /// Floats that are returned.
    pub(super) fn output(&mut self, name: &str, dimensions: &[&str]) {
        let described = value(name, FLOAT, dimensions);
        self.message.message(12, &described);
    }

    /// The file's bytes.
    pub(super) fn file(mut self, name: &str) -> Vec<u8> {
        self.message.text(2, name);
        let mut operators = Message::default();
        operators.text(1, "");
        operators.number(2, OPERATOR_SET);
        let mut model = Message::default();
        model.number(1, IR_VERSION);
        model.text(2, "evalign");
        model.message(7, &self.message);
        model.message(8, &operators);
        model.0
    }
}

/// `ValueInfoProto`; a dimension that is a number is that number, else a name for one that varies.
fn value(name: &str, kind: u64, dimensions: &[&str]) -> Message {
    let mut shape = Message::default();
    for dimension in dimensions {
        let mut message = Message::default();
        match dimension.parse() {
            Ok(size) => message.number(1, size),
            Err(_) => message.text(2, dimension),
        }
        shape.message(1, &message);
    }
    let mut tensor = Message::default();
    tensor.number(1, kind);
    tensor.message(2, &shape);
    let mut kind = Message::default();
    kind.message(1, &tensor);
    let mut value = Message::default();
    value.text(1, name);
    value.message(2, &kind);
    value
}
