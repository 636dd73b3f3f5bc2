//! Kubernetes' quantities, as far as two of them are compared: "0.5" is "500m".

use std::str::FromStr;

/// In billionths of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Quantity(i128);

impl Quantity {
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// Digits with at most one point, then a suffix or an exponent. Not negative: no resource is. More than a billionth's precision,
/// or more than fits, is an error; the API server rounds the one and refuses the other.
impl FromStr for Quantity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > MAX_DIGITS || fraction.contains('.') {
            return Err(());
        }
        let digits: i128 = digits.parse().map_err(|_| ())?;
        let (binary, exponent) = scale(suffix).ok_or(())?;
        let decimals = i32::try_from(fraction.len()).map_err(|_| ())?;
        let exponent = exponent + BILLIONTHS - decimals;
        let value = digits.checked_mul(1 << binary).ok_or(())?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs()).ok_or(())?;
        match exponent {
            0.. => value.checked_mul(power).map(Self).ok_or(()),
            _ if value % power == 0 => Ok(Self(value / power)),
            _ => Err(()),
        }
    }
}

/// (power of two, power of ten) of a suffix.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    let exponent = |text: &str| text.parse().ok().filter(|n: &i32| n.abs() <= 18);
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => (0, exponent(other.strip_prefix(['e', 'E'])?)?),
    })
}

const BILLIONTHS: i32 = 9;
/// Enough for any memory in bytes; with every suffix it is far from i128's end, or refused.
const MAX_DIGITS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_amount_are_equal() {
        let quantity = |text: &str| text.parse::<Quantity>();
        for (a, b) in [
            ("0.5", "500m"),
            ("1", "1000m"),
            ("1Gi", "1024Mi"),
            ("1e3", "1k"),
            ("1E", "1000P"),
            ("1.5Gi", "1536Mi"),
            (".5", "500000u"),
            ("5.", "5"),
            ("0", "0m"),
        ] {
            assert!(quantity(a).is_ok(), "{a}");
            assert_eq!(quantity(a), quantity(b), "{a} {b}");
        }
        assert_ne!(quantity("1M"), quantity("1Mi"));
        for text in
            ["", "m", "1mi", "1.2.3", "-1", "1 ", "1e", "1e99", "0.0000000001", "99999999999999999999999999"]
        {
            assert!(quantity(text).is_err(), "{text:?}");
        }
    }
}
