//! How a setting's value is written and read. The environment has only text, so every kind reads text too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millstream_protocol::ByteSize;
use toml::Value as Toml;

/// A kind of value.
pub(super) trait Value: Sized {
    fn read(value: &Toml) -> Result<Self, String>;
    fn write(&self) -> Toml;
}

impl Value for PathBuf {
    fn read(value: &Toml) -> Result<Self, String> {
        match text(value)? {
            "" => Err("a path is not empty".into()),
            path => Ok(path.into()),
        }
    }
    fn write(&self) -> Toml {
        Toml::String(self.display().to_string())
    }
}

impl Value for Option<PathBuf> {
    fn read(value: &Toml) -> Result<Self, String> {
        if text(value)? == "none" { Ok(None) } else { PathBuf::read(value).map(Some) }
    }
    fn write(&self) -> Toml {
        self.as_ref().map_or_else(|| Toml::String("none".into()), PathBuf::write)
    }
}

impl Value for SocketAddr {
    fn read(value: &Toml) -> Result<Self, String> {
        text(value)?.parse().map_err(|_| "write for example 127.0.0.1:4650 or [::1]:4650".into())
    }
    fn write(&self) -> Toml {
        Toml::String(self.to_string())
    }
}

impl Value for Option<SocketAddr> {
    fn read(value: &Toml) -> Result<Self, String> {
        if text(value)? == "off" { Ok(None) } else { SocketAddr::read(value).map(Some) }
    }
    fn write(&self) -> Toml {
        self.as_ref().map_or_else(|| Toml::String("off".into()), SocketAddr::write)
    }
}

impl Value for Option<ByteSize> {
    fn read(value: &Toml) -> Result<Self, String> {
        match value {
            Toml::String(text) if text == "auto" => Ok(None),
            value => ByteSize::read(value).map(Some),
        }
    }
    fn write(&self) -> Toml {
        self.as_ref().map_or_else(|| Toml::String("auto".into()), ByteSize::write)
    }
}

impl Value for bool {
    fn read(value: &Toml) -> Result<Self, String> {
        match value {
            Toml::Boolean(value) => Ok(*value),
            other => text(other)?.parse().map_err(|_| "write true or false".into()),
        }
    }
    fn write(&self) -> Toml {
        Toml::Boolean(*self)
    }
}

impl Value for u32 {
    fn read(value: &Toml) -> Result<Self, String> {
        let number = match value {
            Toml::Integer(number) => Some(*number),
            other => text(other)?.parse().ok(),
        };
        number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| "write a whole number".into())
    }
    fn write(&self) -> Toml {
        Toml::Integer(i64::from(*self))
    }
}

impl Value for u16 {
    fn read(value: &Toml) -> Result<Self, String> {
        u32::read(value)?.try_into().map_err(|_| "that is too large a number".into())
    }
    fn write(&self) -> Toml {
        Toml::Integer(i64::from(*self))
    }
}

impl Value for ByteSize {
    fn read(value: &Toml) -> Result<Self, String> {
        match value {
            Toml::Integer(bytes) => u64::try_from(*bytes).map(ByteSize).map_err(|_| "a size is not negative".into()),
            other => text(other)?.parse(),
        }
    }
    fn write(&self) -> Toml {
        // `Display` rounds to one digit: what is written must read back as it was.
        let shown = self.to_string();
        let exact = shown.parse() == Ok(*self);
        if exact { Toml::String(shown) } else { Toml::String(format!("{} B", self.0)) }
    }
}

const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

impl Value for Duration {
    fn read(value: &Toml) -> Result<Self, String> {
        let text = text(value)?.trim();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = text[split..].trim();
        let factor = TIME_UNITS.into_iter().find_map(|(name, factor)| (name == unit).then_some(factor));
        let count = text[..split].parse::<u64>().ok();
        count
            .zip(factor)
            .and_then(|(count, factor)| count.checked_mul(factor))
            .map(Duration::from_millis)
            .ok_or_else(|| "write for example 30 s, 500 ms, 10 min or 24 h".into())
    }
    fn write(&self) -> Toml {
        let ms = self.as_millis() as u64;
        let whole = |(_, factor): &(&str, u64)| ms > 0 && ms.is_multiple_of(*factor);
        let (unit, factor) = TIME_UNITS.into_iter().find(whole).unwrap_or(("ms", 1));
        Toml::String(format!("{} {unit}", ms / factor))
    }
}

impl Value for Option<Duration> {
    fn read(value: &Toml) -> Result<Self, String> {
        match value {
            Toml::String(text) if text == "never" => Ok(None),
            value => Duration::read(value).map(Some),
        }
    }
    fn write(&self) -> Toml {
        self.as_ref().map_or_else(|| Toml::String("never".into()), Duration::write)
    }
}

fn text(value: &Toml) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("a {} does not belong here", value.type_str()))
}
