//! Numbers between JSON's text and columns: exactly, or not at all.

/// Every decimal of so many digits survives the way through float64 and back.
const DIGITS_SAFE: usize = 15;
/// No float64 needs more digits than that to be told from the others.
const DIGITS_MAX: usize = 17;

/// The float64 that this JSON number is the text of, if there is one: it prints as it, in as few digits as tell it from other
/// floats or rounded to as many digits as the text has (printers differ in the last of 17 digits).
///
/// `0.1` has one. `0.1234567890123456789`, `0.12345678901234567` and `1e400` have none: they would come back as another number.
pub(crate) fn exact_float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    let digits = text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).filter(u8::is_ascii_digit).count();
    // Subnormals have fewer digits than that, and none is left of what underflows to zero.
    let is_safe = digits <= DIGITS_SAFE && (value.is_normal() || is_zero(text));
    (is_safe || prints_as(value, text)).then_some(value)
}

fn prints_as(value: f64, text: &str) -> bool {
    let Some(decimal) = Decimal::parse(text) else { return false };
    let is = |printed: String| Decimal::parse(&printed).as_ref() == Some(&decimal);
    let digits = decimal.digits.len();
    is(format!("{value:e}")) || (1..=DIGITS_MAX).contains(&digits) && is(format!("{value:.*e}", digits - 1))
}

/// The float64 of an integer up to where floats are integers one by one: ±2⁵³.
pub(crate) fn exact_float_of(value: i64) -> Option<f64> {
    (value.unsigned_abs() <= 1 << 53).then_some(value as f64)
}

fn is_zero(text: &str) -> bool {
    text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).all(|byte| matches!(byte, b'-' | b'0' | b'.'))
}

/// A JSON number as digits without zeros at either end, and the power of ten of the last one.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// `None` if the exponent is beyond 64 bits.
    fn parse(text: &str) -> Option<Decimal> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let mut exponent: i64 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.checked_add(1)?;
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        if digits.is_empty() {
            exponent = 0;
        }
        Some(Decimal { negative: negative && !digits.is_empty(), digits, exponent })
    }
}

/// A JSON number as an integer of units of 10^-`scale`, if it has at most `precision` digits and none beyond the scale.
pub(crate) fn exact_decimal(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let decimal = Decimal::parse(text)?;
    let shift = decimal.exponent.checked_add(i64::from(scale))?;
    if shift < 0 || decimal.digits.len() as i64 + shift > i64::from(precision) && !decimal.digits.is_empty() {
        return None;
    }
    let digits = decimal.digits.iter().fold(0_i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    let value = if digits == 0 { 0 } else { digits * 10_i128.pow(u32::try_from(shift).ok()?) };
    Some(if decimal.negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_are_exact_or_nothing() {
        for exact in ["0.1", "1012.3", "-0.0", "1e3", "1.50", "5e-324", "0e999", "1.7976931348623157e308", "0.3000"] {
            assert!(exact_float(exact).is_some(), "{exact}");
        }
        for other in
            ["0.1234567890123456789", "1e400", "1e-400", "4e-324", "123456789012345678.5", "1.00000000000000000001"]
        {
            assert!(exact_float(other).is_none(), "{other}");
        }
        assert_eq!(exact_float_of(1 << 53), Some(9_007_199_254_740_992.0));
        assert_eq!((exact_float_of((1 << 53) + 1), exact_float_of(i64::MIN)), (None, None));
    }

    #[test]
    fn decimals_are_exact_or_nothing() {
        assert_eq!(exact_decimal("12.5", 4, 2), Some(1250));
        assert_eq!(exact_decimal("-12.50", 4, 2), Some(-1250));
        assert_eq!(exact_decimal("1e2", 5, 2), Some(10_000));
        assert_eq!(exact_decimal("0.00", 3, 2), Some(0));
        assert_eq!(exact_decimal("99999999999999999999999999999999999999", 38, 0), Some(10_i128.pow(38) - 1));
        for other in ["12.555", "100.00", "1e99999999999999999999", "1e5"] {
            assert_eq!(exact_decimal(other, 4, 2), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_float_comes_back(value in any::<f64>().prop_filter("finite", |value| value.is_finite())) {
            let text = format!("{value:e}");
            prop_assert_eq!(exact_float(&text), Some(value));
            let text = serde_json::to_string(&value).expect("a number");
            prop_assert_eq!(exact_float(&text), Some(value));
        }
    }
}
