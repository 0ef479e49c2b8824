//! Which directory a record belongs to, worked out here and not by the lake's own code.
//!
//! Only as much of the template's language as the records of this torture have a use for: `{c}`, `{ts:FORMAT}` with `%Y
//! %m %d %H %M %F`, and what is to stand as it is.

use crate::failure::Failure;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    C,
    Time(String),
}

/// A template.
#[derive(Debug, Clone)]
pub struct Layout {
    parts: Vec<Part>,
}

impl Layout {
    /// Reads a template.
    ///
    /// # Errors
    /// It has more in it than is known here.
    pub fn parse(template: &str) -> Result<Self, Failure> {
        let unknown = |what: &str| {
            Failure::CannotBegin(format!(
                "the layout {template:?} has {what} in it: this torture knows {{c}} and {{ts:…}} with %Y %m %d %H %M %F"
            ))
        };
        let (mut parts, mut rest) = (Vec::new(), template.strip_suffix('/').unwrap_or(template));
        while let Some((before, after)) = rest.split_once('{') {
            parts.push(Part::Literal(before.to_owned()));
            let (name, behind) = after.split_once('}').ok_or_else(|| unknown("a '{' without its '}'"))?;
            rest = behind;
            parts.push(match name.split_once(':') {
                None if name == "c" => Part::C,
                Some(("ts", format)) if render_time(format, 0).is_some() => Part::Time(format.to_owned()),
                _ => return Err(unknown(&format!("{{{name}}}"))),
            });
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(Self { parts })
    }

    /// The directory of a record whose field `c` gives `c`, and of that time in Unix ms.
    pub fn directory(&self, c: &str, timestamp_ms: i64) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Literal(text) => text.clone(),
            Part::C => c.to_owned(),
            Part::Time(format) => render_time(format, timestamp_ms).unwrap_or_default(),
        });
        parts.collect()
    }
}

fn render_time(format: &str, timestamp_ms: i64) -> Option<String> {
    let (year, month, day) = date(timestamp_ms.div_euclid(DAY_MS));
    let minutes = timestamp_ms.rem_euclid(DAY_MS) / 60_000;
    let (mut out, mut chars) = (String::new(), format.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out += &match chars.next()? {
            'Y' => format!("{year:04}"),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'F' => format!("{year:04}-{month:02}-{day:02}"),
            'H' => format!("{:02}", minutes / 60),
            'M' => format!("{:02}", minutes % 60),
            _ => return None,
        };
    }
    Some(out)
}

/// Year, month and day of a day counted from 1970-01-01. Slow and obviously right: it counts.
fn date(mut day: i64) -> (i64, i64, i64) {
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970;
    while day >= 365 + i64::from(is_leap(year)) {
        day -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + i64::from(is_leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_what_the_template_says() {
        // 2016-02-29 23:59 UTC.
        let time = 1_456_790_340_000;
        for (template, expected) in [
            ("c={c}/d={ts:%Y-%m-%d}/", "c=a/d=2016-02-29"),
            ("{ts:%Y/%m/%d/%H}/{c}", "2016/02/29/23/a"),
            ("m={ts:%FT%H-%M}", "m=2016-02-29T23-59"),
            ("", ""),
        ] {
            assert_eq!(Layout::parse(template).expect(template).directory("a", time), expected);
        }
        assert_eq!(date(19_722), (2023, 12, 31));
        assert_eq!(date(19_723), (2024, 1, 1));
    }

    #[test]
    fn a_template_that_is_not_known_here_is_refused() {
        for template in ["x={x}", "{c", "{ts:%j}", "{arrival:%F}"] {
            assert!(matches!(Layout::parse(template), Err(Failure::CannotBegin(_))), "{template}");
        }
    }
}
