//! Compares what was sent with what came back. Pure: anything that differs is named, nothing is forgiven.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use millstream_lake::reader::{LandedRow, normalised};
use millstream_protocol::{Offset, PartitionId};
use serde_json::Value;

use super::sample::Flight;

/// Where a record is: its receipt.
pub type Place = (PartitionId, Offset);

/// A record as it came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub place: Place,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

/// Compares the records read back, in the order they came, with the flights and their receipts: each is where its receipt
/// says, byte for byte, once; offsets rise within a partition; each carrier's flights are in one partition, in the
/// order they were sent. Returns how many carriers there are.
///
/// # Errors
/// What differs first.
pub fn read_back(flights: &[Flight], receipts: &[Place], got: &[Got]) -> Result<usize, String> {
    let mut expected = by_place(receipts)?;
    let mut next: HashMap<PartitionId, Offset> = HashMap::new();
    let mut carriers: BTreeMap<&Bytes, (PartitionId, usize)> = BTreeMap::new();
    for record in got {
        let (partition, offset) = record.place;
        let place = format!("partition {partition}, offset {offset}");
        let index =
            expected.remove(&record.place).ok_or_else(|| format!("{place} came back twice, or was never sent"))?;
        if next.get(&partition).is_some_and(|next| offset < *next) {
            return Err(format!("{place} came after a later offset of its partition"));
        }
        next.insert(partition, offset.next());
        let flight = &flights[index];
        if record.value.as_ref() != Some(&flight.line) {
            return Err(format!("{place} is not the line that was sent: line {}", index + 1));
        }
        if record.key.as_ref() != Some(&flight.carrier) {
            return Err(format!("{place} has another key than line {}", index + 1));
        }
        if let Some((home, before)) = carriers.insert(&flight.carrier, (partition, index)) {
            if home != partition {
                return Err(format!("one key is in two partitions, {home} and {partition}: line {}", index + 1));
            }
            if before > index {
                return Err(format!("line {} came after line {} of the same key", index + 1, before + 1));
            }
        }
    }
    match expected.into_values().min() {
        Some(index) => Err(format!("line {} was acknowledged and did not come back", index + 1)),
        None => Ok(carriers.len()),
    }
}

/// Compares the rows landed with the flights and their receipts: each flight is one row, with the same fields.
///
/// # Errors
/// What differs first.
pub fn landed(flights: &[Flight], receipts: &[Place], rows: &[LandedRow]) -> Result<(), String> {
    let mut expected = by_place(receipts)?;
    for row in rows {
        let place = format!("partition {}, offset {}", row.partition, row.offset);
        let index = expected
            .remove(&(row.partition, row.offset))
            .ok_or_else(|| format!("{place} landed twice, or was never sent"))?;
        let sent: Value = serde_json::from_slice(&flights[index].line).map_err(|error| error.to_string())?;
        let landed = Value::Object(row.fields.clone());
        let (sent, landed) = (normalised(&sent), normalised(&landed));
        if sent != landed {
            return Err(format!("{place} landed as {landed}, but line {} is {sent}", index + 1));
        }
    }
    match expected.into_values().min() {
        Some(index) => Err(format!("line {} was acknowledged and did not land", index + 1)),
        None => Ok(()),
    }
}

fn by_place(receipts: &[Place]) -> Result<HashMap<Place, usize>, String> {
    let places: HashMap<Place, usize> = receipts.iter().enumerate().map(|(index, place)| (*place, index)).collect();
    if places.len() == receipts.len() { Ok(places) } else { Err("two records have the same receipt".into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flights() -> Vec<Flight> {
        let flight = |carrier: &'static str, n: u32| Flight {
            carrier: Bytes::from_static(carrier.as_bytes()),
            line: json!({ "carrier": carrier, "n": n, "gate": null, "at": "2013-01-01T10:15:00Z" }).to_string().into(),
        };
        vec![flight("UA", 0), flight("AA", 1), flight("UA", 2)]
    }

    fn place(partition: u32, offset: u64) -> Place {
        (PartitionId(partition), Offset(offset))
    }

    fn sent() -> (Vec<Flight>, Vec<Place>, Vec<Got>) {
        let receipts = vec![place(0, 0), place(1, 0), place(0, 1)];
        let got = flights().into_iter().zip(&receipts);
        let got = got.map(|(f, place)| Got { place: *place, key: Some(f.carrier), value: Some(f.line) }).collect();
        (flights(), receipts, got)
    }

    #[test]
    fn what_came_back_as_it_was_sent_passes() {
        let (flights, receipts, got) = sent();
        assert_eq!(read_back(&flights, &receipts, &got), Ok(2));
    }

    type Change<'a> = &'a dyn Fn(&mut Vec<Flight>, &mut Vec<Place>, &mut Vec<Got>);

    #[test]
    fn every_planted_difference_is_found() {
        let find = |change: Change<'_>| {
            let (mut flights, mut receipts, mut got) = sent();
            change(&mut flights, &mut receipts, &mut got);
            read_back(&flights, &receipts, &got).expect_err("it differs")
        };
        assert!(find(&|_, _, got| drop(got.pop())).contains("line 3 was acknowledged and did not come back"));
        assert!(find(&|_, _, got| got.push(got[0].clone())).contains("came back twice"));
        assert!(find(&|_, _, got| got.push(got[2].clone())).contains("came back twice"));
        assert!(find(&|_, _, got| got.swap(0, 2)).contains("came after a later offset"));
        assert!(find(&|_, _, got| got[1].value = Some("{}".into())).contains("not the line that was sent: line 2"));
        assert!(find(&|_, _, got| got[1].value = None).contains("not the line"));
        assert!(find(&|_, _, got| got[1].key = None).contains("another key"));
        assert!(find(&|_, receipts, _| receipts[2] = place(0, 0)).contains("the same receipt"));
        let moved = |_: &mut Vec<Flight>, receipts: &mut Vec<Place>, got: &mut Vec<Got>| {
            (receipts[2], got[2].place) = (place(1, 1), place(1, 1));
        };
        assert!(find(&moved).contains("two partitions"));
    }

    #[test]
    fn a_key_out_of_order_is_found_even_if_offsets_rise() {
        let (mut flights, _, mut got) = sent();
        flights[1].carrier = flights[0].carrier.clone();
        got[1].key = got[0].key.clone();
        got.swap(1, 2);
        let receipts = [place(0, 0), place(0, 2), place(0, 1)];
        for (record, place) in got.iter_mut().zip([place(0, 0), place(0, 1), place(0, 2)]) {
            record.place = place;
        }
        let found = read_back(&flights, &receipts, &got).expect_err("line 3 came before line 2");
        assert!(found.contains("line 2 came after line 3"), "{found}");
    }

    #[test]
    fn rows_are_compared_field_by_field() {
        let (flights, receipts, _) = sent();
        let row = |index: usize| {
            let Value::Object(mut fields) = serde_json::from_slice(&flights[index].line).expect("JSON") else {
                unreachable!("it is an object")
            };
            fields.remove("gate");
            LandedRow { partition: receipts[index].0, offset: receipts[index].1, timestamp: None, fields }
        };
        let rows = vec![row(2), row(0), row(1)];
        assert_eq!(landed(&flights, &receipts, &rows), Ok(()));
        assert!(landed(&flights, &receipts, &rows[..2]).expect_err("one is missing").contains("line 2"));
        let twice = [rows.clone(), vec![row(1)]].concat();
        assert!(landed(&flights, &receipts, &twice).expect_err("one is there twice").contains("landed twice"));
        let mut changed = rows;
        changed[0].fields.insert("n".into(), json!(3));
        assert!(landed(&flights, &receipts, &changed).expect_err("one differs").contains("but line 3 is"));
    }
}
