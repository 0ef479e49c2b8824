//! "Did you mean": the known name that a mistyped one is nearest to.

/// The known name with the fewest edits, if they are few for its length.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.into_iter().map(|known| (edits(name, known), known));
    let (distance, known) = distances.min()?;
    (distance > 0 && distance <= (known.chars().count() / 3).max(1)).then_some(known)
}

/// The fewest insertions, deletions, replacements and swaps of neighbours that make one out of the other (optimal string
/// alignment): a swap, the commonest slip, counts once.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().take(128).collect(), to.chars().take(128).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = above[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_another_name_does_not() {
        let known = ["flights", "weather", "rides"];
        assert_eq!(nearest("flihgts", known), Some("flights"));
        assert_eq!(nearest("flight", known), Some("flights"));
        assert_eq!(nearest("wheather", known), Some("weather"));
        assert_eq!(nearest("orders", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
