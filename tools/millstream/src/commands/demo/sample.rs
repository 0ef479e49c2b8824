//! The sample: 5,000 real flights, in the program itself. Source and licence: `data/README.md`.

use bytes::Bytes;
use serde::Deserialize;

static FLIGHTS: &[u8] = include_bytes!("../../../data/flights-sample.ndjson");

/// One line of the sample and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// The airline: a flight's key, so that each airline's flights keep their order.
    pub carrier: Bytes,
    pub line: Bytes,
}

#[derive(Deserialize)]
struct Fields<'a> {
    carrier: &'a str,
}

/// All of it, in its order.
pub fn flights() -> Vec<Flight> {
    let lines = FLIGHTS.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let flight = |line: &'static [u8]| {
        let fields: Fields<'static> = serde_json::from_slice(line).expect("the sample is JSON with a carrier");
        Flight { carrier: Bytes::from_static(fields.carrier.as_bytes()), line: Bytes::from_static(line) }
    };
    lines.map(flight).collect()
}

/// The bytes of all keys and values.
pub fn size(flights: &[Flight]) -> u64 {
    flights.iter().map(|flight| (flight.line.len() + flight.carrier.len()) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_one_its_readme_describes() {
        let flights = flights();
        assert_eq!((flights.len(), FLIGHTS.len()), (5_000, 1_292_836));
        let distance = |flight: &Flight| {
            let value: serde_json::Value = serde_json::from_slice(&flight.line).expect("JSON");
            value["distance"].as_u64().expect("a number")
        };
        assert_eq!(flights.iter().map(distance).sum::<u64>(), 5_276_585);
    }
}
