//! Finds fields by the numbers that a parser gives the keys of its texts: a name is looked up once, not for each record.

use super::Fields;
use crate::json::Json;

/// What is known of the keys of one parser.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    parser: u64,
    /// By a key's number.
    found: Vec<Found>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Found {
    #[default]
    NotAsked,
    Nothing,
    Field(u32),
}

impl Lookup {
    /// The index of the field that the key names, among those that are always asked.
    pub fn find(&mut self, json: &Json<'_>, key: u32, fields: &Fields) -> Option<usize> {
        let by_name = || fields.find(&json.string(json.token(key)), usize::MAX);
        let Some(key) = json.key(key) else { return by_name() };
        if key.parser != self.parser {
            self.parser = key.parser;
            self.found.clear();
        }
        match self.found.get(key.number) {
            Some(Found::Field(index)) => Some(*index as usize),
            Some(Found::Nothing) => None,
            Some(Found::NotAsked) | None => {
                let index = by_name();
                self.found.resize(self.found.len().max(key.number + 1), Found::NotAsked);
                self.found[key.number] = index.map_or(Found::Nothing, |index| Found::Field(index as u32));
                index
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Parser;
    use crate::schema::Schema;

    #[test]
    fn a_key_is_found_by_its_number_and_another_parsers_number_is_another() {
        let mut schema = Schema::default();
        let (mut one, mut other) = (Parser::default(), Parser::default());
        schema.observe(&one.parse(br#"{"a":1,"b":2}"#).expect("json"));
        let mut lookup = Lookup::default();
        let mut found = |parser: &mut Parser, text: &str| -> Vec<Option<usize>> {
            let json = parser.parse(text.as_bytes()).expect("json");
            json.field_indexes(0).map(|(key, _)| lookup.find(&json, key, &schema.fields)).collect()
        };
        for _ in 0..2 {
            assert_eq!(found(&mut one, r#"{"b":1,"a":2,"c":3}"#), [Some(1), Some(0), None]);
            assert_eq!(found(&mut other, r#"{"c":3,"a":1,"b":2,"\u0061":4}"#), [None, Some(0), Some(1), Some(0)]);
        }
    }
}
