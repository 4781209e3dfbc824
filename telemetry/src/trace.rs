//! W3C trace context, as it travels in HTTP and record headers.
//! <https://www.w3.org/TR/trace-context/>

use std::fmt;

/// The name of the header.
pub const TRACEPARENT: &str = "traceparent";

/// One span of one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The whole request, over all stages. Never 0.
    pub trace_id: u128,
    /// One step of it. Never 0.
    pub span_id: u64,
    /// Whether the step is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// A new, sampled trace.
    pub fn random() -> Self {
        Self { trace_id: nonzero(rand::random::<u128>), span_id: nonzero(rand::random::<u64>), sampled: true }
    }

    /// The next step of the same trace.
    pub fn child(&self) -> Self {
        Self { span_id: nonzero(rand::random::<u64>), ..*self }
    }

    /// Reads a `traceparent`, strictly. None when it is not one.
    pub fn parse(header: &str) -> Option<Self> {
        const LENGTH: usize = 55;
        let bytes = header.as_bytes();
        let known = bytes.get(..LENGTH)?;
        let version = hex(known.get(..2)?)?;
        // A later version may only add fields behind another hyphen; 255 is forbidden.
        let is_whole = match version {
            0 => bytes.len() == LENGTH,
            255 => false,
            _ => bytes.get(LENGTH).is_none_or(|next| *next == b'-'),
        };
        if !is_whole || [2, 35, 52].iter().any(|hyphen| known[*hyphen] != b'-') {
            return None;
        }
        let trace_id = hex(&known[3..35])?;
        let span_id = u64::try_from(hex(&known[36..52])?).ok()?;
        let flags = hex(&known[53..55])?;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The context a header gives, or a new one when there is none or it is not valid.
    pub fn parse_or_random(header: Option<&str>) -> Self {
        header.and_then(Self::parse).unwrap_or_else(Self::random)
    }

    /// The same for the bytes of a record header.
    pub fn from_bytes_or_random(header: Option<&[u8]>) -> Self {
        Self::parse_or_random(header.and_then(|bytes| std::str::from_utf8(bytes).ok()))
    }
}

/// The header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

fn nonzero<T: Default + PartialEq>(random: impl Fn() -> T) -> T {
    loop {
        let value = random();
        if value != T::default() {
            return value;
        }
    }
}

/// Lowercase hexadecimal digits only, as the standard wants.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((value << 4) | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn check(header: &str, expected: Option<(u128, u64, bool)>) {
        let expected = expected.map(|(trace_id, span_id, sampled)| TraceContext { trace_id, span_id, sampled });
        assert_eq!(TraceContext::parse(header), expected, "{header}");
    }

    #[test]
    fn reads_strictly() {
        let ids = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7);
        check(GOOD, Some((ids.0, ids.1, true)));
        check(&GOOD.replace("-01", "-00"), Some((ids.0, ids.1, false)));
        check(&GOOD.replace("-01", "-ff"), Some((ids.0, ids.1, true)));
        check(&GOOD.replacen("00-", "cc-", 1), Some((ids.0, ids.1, true)));
        check(&format!("{}-what-follows", GOOD.replacen("00-", "cc-", 1)), Some((ids.0, ids.1, true)));
        for bad in [
            String::new(),
            "00".to_owned(),
            GOOD.to_uppercase(),
            GOOD.replacen("00-", "ff-", 1),
            format!("{GOOD}-more"),
            format!("{}x", GOOD.replacen("00-", "cc-", 1)),
            format!(" {GOOD}"),
            GOOD[..54].to_owned(),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("4bf9", "4bg9"),
            GOOD.replace("4bf9", "+bf9"),
            "00-4bf92f3577b34da6a3ce929d0e0eä4-00f067aa0ba902b7-01".to_owned(),
        ] {
            check(&bad, None);
        }
    }

    #[test]
    fn writes_what_it_reads() {
        assert_eq!(TraceContext::parse(GOOD).map(|context| context.to_string()).as_deref(), Some(GOOD));
        let context = TraceContext::random();
        assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
    }

    #[test]
    fn a_child_stays_in_its_trace() {
        let parent = TraceContext { sampled: false, ..TraceContext::random() };
        let child = parent.child();
        assert_eq!((child.trace_id, child.sampled), (parent.trace_id, false));
        assert_ne!(child.span_id, parent.span_id);
    }

    #[test]
    fn an_invalid_header_starts_a_new_trace() {
        let first = TraceContext::parse_or_random(Some("nonsense"));
        assert_ne!(first.trace_id, TraceContext::parse_or_random(None).trace_id);
        assert_eq!(TraceContext::from_bytes_or_random(Some(GOOD.as_bytes())).to_string(), GOOD);
        assert_ne!(TraceContext::from_bytes_or_random(Some(&[0xff; 55])).trace_id, first.trace_id);
    }
}
