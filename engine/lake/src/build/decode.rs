//! JSON to Arrow: `arrow-json`, with our own decoder for text columns, which take any value.
//!
//! Strictness is not left to `arrow-json` (it truncates fractions to integers and reads numbers out of strings where a
//! column asks for them): every record was parsed by [`crate::json`] and found to fit the schema before it comes here.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_json::reader::{ArrayDecoder, Decoder, DecoderContext, DecoderFactory, ReaderBuilder, Tape, TapeElement};
use arrow_schema::{ArrowError, DataType, FieldRef, SchemaRef};

use crate::json::{Json, TokenKind, compact};
use crate::schema::Schema;

/// A decoder of up to `rows` records at a time.
pub fn decoder(schema: SchemaRef, rows: usize) -> Result<Decoder, ArrowError> {
    ReaderBuilder::new(schema).with_batch_size(rows).with_decoder_factory(Arc::new(TextColumns)).build_decoder()
}

/// Decodes records, one JSON object each.
pub fn decode<'a>(decoder: &mut Decoder, values: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch, ArrowError> {
    let mut rows = 0;
    for value in values {
        rows += 1;
        decoder.decode(value)?;
        if decoder.has_partial_record() || decoder.len() != rows {
            return Err(ArrowError::JsonError("the value is not one record".into()));
        }
    }
    let batch = decoder.flush()?.ok_or_else(|| ArrowError::JsonError("no record".into()))?;
    if batch.num_rows() == rows { Ok(batch) } else { Err(ArrowError::JsonError("records are missing".into())) }
}

/// The fields of a record that have no column, as a JSON object.
pub fn rest(json: &Json<'_>, schema: &Schema) -> Option<String> {
    let mut out = String::new();
    for (key, value) in json.fields() {
        if value.kind != TokenKind::Null && !schema.fields.contains(&json.string(key)) {
            out.push(if out.is_empty() { '{' } else { ',' });
            out.push_str(json.raw(key));
            out.push(':');
            compact(json.raw(value), &mut out);
        }
    }
    if out.is_empty() {
        return None;
    }
    out.push('}');
    Some(out)
}

/// Gives text columns the decoder below.
#[derive(Debug)]
struct TextColumns;

impl DecoderFactory for TextColumns {
    fn make_default_decoder(
        &self,
        _context: &DecoderContext,
        field: &FieldRef,
        _is_nullable: bool,
    ) -> Result<Option<Box<dyn ArrayDecoder>>, ArrowError> {
        Ok((*field.data_type() == DataType::Utf8).then(|| Box::new(TextDecoder) as Box<dyn ArrayDecoder>))
    }
}

/// Strings as they are, numbers and bools as their text, containers as JSON.
struct TextDecoder;

impl ArrayDecoder for TextDecoder {
    fn decode(&mut self, tape: &Tape<'_>, positions: &[u32]) -> Result<ArrayRef, ArrowError> {
        let mut builder = StringBuilder::new();
        let mut buffer = String::new();
        for position in positions {
            match tape.get(*position) {
                TapeElement::Null => builder.append_null(),
                TapeElement::String(index) | TapeElement::Number(index) => builder.append_value(tape.get_string(index)),
                _ => {
                    buffer.clear();
                    write_json(tape, *position, &mut buffer)?;
                    builder.append_value(&buffer);
                }
            }
        }
        Ok(Arc::new(builder.finish()))
    }
}

/// A bracket that is still open.
struct Open {
    end: u32,
    closing: char,
    /// Keys and values written in it.
    items: u32,
}

/// Writes a value as compact JSON. Without recursion: its depth is the sender's choice.
fn write_json(tape: &Tape<'_>, start: u32, out: &mut String) -> Result<(), ArrowError> {
    let mut stack: Vec<Open> = Vec::new();
    let mut at = start;
    loop {
        if let Some(open) = stack.last_mut() {
            if at == open.end {
                out.push(open.closing);
                stack.pop();
                if stack.is_empty() {
                    return Ok(());
                }
                at += 1;
                continue;
            }
            if open.items > 0 {
                out.push(if open.closing == '}' && open.items % 2 == 1 { ':' } else { ',' });
            }
            open.items += 1;
        }
        match tape.get(at) {
            TapeElement::StartObject(end) => {
                out.push('{');
                stack.push(Open { end, closing: '}', items: 0 });
            }
            TapeElement::StartList(end) => {
                out.push('[');
                stack.push(Open { end, closing: ']', items: 0 });
            }
            TapeElement::String(index) => {
                let quoted = serde_json::to_string(tape.get_string(index));
                out.push_str(&quoted.map_err(|error| ArrowError::JsonError(error.to_string()))?);
            }
            TapeElement::Number(index) => out.push_str(tape.get_string(index)),
            TapeElement::True => out.push_str("true"),
            TapeElement::False => out.push_str("false"),
            TapeElement::Null => out.push_str("null"),
            _ => return Err(tape.error(at, "a value read from text")),
        }
        if stack.is_empty() {
            return Ok(());
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;
    use crate::json::Parser;
    use crate::schema::Columns;

    #[test]
    fn text_columns_take_any_value_exactly() {
        let values = [
            r#""plain""#,
            r#""a \"q\" é\n""#,
            "12345678901234567890123",
            "-1.50e3",
            "true",
            "null",
            r#"[1, {"a" : [ ], "b\"": "x\ny"}, null, [[2.0]] ]"#,
            r#"{"k": {}}"#,
            r#"{}"#,
        ];
        let expected = [
            Some("plain"),
            Some("a \"q\" é\n"),
            Some("12345678901234567890123"),
            Some("-1.50e3"),
            Some("true"),
            None,
            Some(r#"[1,{"a":[],"b\"":"x\ny"},null,[[2.0]]]"#),
            Some(r#"{"k":{}}"#),
            Some("{}"),
        ];
        let records: Vec<String> = values.iter().map(|value| format!("{{\"v\":{value}}}")).collect();
        let mut observed = Schema::default();
        let mut parser = Parser::default();
        records.iter().for_each(|record| {
            observed.observe(&parser.parse(record.as_bytes()).expect("json"));
        });
        let columns = Columns::new(&observed);
        let mut decoder = decoder(columns.decoded, 64).expect("decoder");
        let batch = decode(&mut decoder, records.iter().map(String::as_bytes)).expect("decoded");
        assert_eq!(batch.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), expected);
    }
}
