//! How figures are written: three digits, with a unit.

/// A time, of microseconds.
pub fn time(us: f64) -> String {
    match us {
        us if us < 999.5 => format!("{} µs", digits(us)),
        us if us < 999_500.0 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} s", digits(us / 1e6)),
    }
}

/// A number of things.
pub fn count(n: f64) -> String {
    match n {
        n if n < 9_999.5 => digits(n),
        n if n < 999_500.0 => format!("{}k", digits(n / 1e3)),
        n if n < 999_500_000.0 => format!("{}M", digits(n / 1e6)),
        n => format!("{}G", digits(n / 1e9)),
    }
}

/// Bytes.
pub fn bytes(n: f64) -> String {
    match n {
        n if n < 999.5 => format!("{n:.0} B"),
        n if n < 999_500.0 => format!("{} kB", digits(n / 1e3)),
        n if n < 999_500_000.0 => format!("{} MB", digits(n / 1e6)),
        n => format!("{} GB", digits(n / 1e9)),
    }
}

/// A whole number, with commas.
pub fn commas(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn digits(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        x if x < 9.995 => format!("{x:.2}"),
        x if x < 99.95 => format!("{x:.1}"),
        x => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_their_unit() {
        assert_eq!(
            [0.5, 12.34, 999.6, 48_900.0, 2.5e6].map(time),
            ["0.50 µs", "12.3 µs", "1.00 ms", "48.9 ms", "2.50 s"]
        );
        assert_eq!([0.0, 5.0, 1_234.0, 647_374.0, 1.5e7].map(count), ["0", "5.00", "1234", "647k", "15.0M"]);
        assert_eq!([12.0, 1.68e8, 2e9].map(bytes), ["12 B", "168 MB", "2.00 GB"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(commas), ["0", "999", "1,000", "1,234,567"]);
    }
}
