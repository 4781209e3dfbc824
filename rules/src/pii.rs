//! Personal data: where in a text it is. Each finder looks at candidates and checks what no
//! expression can: checksums, ranges, numbers of digits.

use regex::Regex;

use crate::verdict::{Action, HitKind};
use crate::{PiiRules, RulesError, iban};

/// A place in the text: first byte, and the byte after the last.
pub(crate) type Span = (usize, usize);

/// One kind of personal data that a rule set looks for.
#[derive(Clone, Debug)]
pub(crate) struct Finder {
    pub kind: HitKind,
    pub rule: &'static str,
    pub action: Action,
    candidate: Option<Regex>,
}

const EMAIL: &str = r"[\p{L}\p{N}._%+'-]+@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]*[\p{L}\p{N}])?\.)+\p{L}{2,}";
// Boundaries are those of ASCII, for which the regex engine needs no slow path; `is_inside_word` sees to
// the other letters.
const PHONE: &str = concat!(
    // International: + or 00, then up to 15 digits.
    r"(?:\+|(?-u:\b)00)[ ]?[1-9][0-9]{0,2}(?:[ ./\x{a0}-]{0,2}(?:\([0-9]{1,5}\)|[0-9]{1,5})){1,8}",
    // North American, with separators.
    r"|(?:(?-u:\b)1[ .-])?(?:\([0-9]{3}\)[ .-]?|(?-u:\b)[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}(?-u:\b)",
    // National, with its trunk 0 and at least one separator.
    r"|(?-u:\b)0[0-9]{1,4}[ /-][0-9]{2,8}(?:[ -][0-9]{2,5}){0,4}(?-u:\b)",
    r"|\(0[0-9]{1,4}\)[ ]?[0-9]{2,8}(?:[ -][0-9]{2,5}){0,4}(?-u:\b)",
);
const IPV4: &str = r"(?-u:\b)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?-u:\b)";
const US_SSN: &str = r"(?-u:\b)[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}(?-u:\b)";

impl Finder {
    /// The finders that a rule set asks for.
    pub fn all(rules: &PiiRules) -> Result<Vec<Self>, RulesError> {
        let table = [
            (rules.email, HitKind::Email, "email", Some(EMAIL)),
            (rules.phone, HitKind::Phone, "phone", Some(PHONE)),
            (rules.iban, HitKind::Iban, "iban", None),
            (rules.credit_card, HitKind::CreditCard, "credit_card", None),
            (rules.ipv4, HitKind::Ipv4, "ipv4", Some(IPV4)),
            (rules.us_ssn, HitKind::UsSsn, "us_ssn", Some(US_SSN)),
        ];
        let mut finders = Vec::new();
        for (action, kind, rule, candidate) in table {
            let Some(action) = action else { continue };
            let candidate = candidate.map(Regex::new).transpose().map_err(|error| RulesError::Rule {
                rule: rule.to_owned(),
                reason: format!("its built-in expression is not usable: {error}"),
            })?;
            finders.push(Self { kind, rule, action, candidate });
        }
        Ok(finders)
    }

    /// All places, in order and disjoint.
    pub fn find(&self, text: &str) -> Vec<Span> {
        match self.kind {
            HitKind::Email if !text.contains('@') => Vec::new(),
            HitKind::Iban => ibans(text),
            HitKind::CreditCard => cards(text),
            HitKind::Phone => self.candidates(text, is_phone),
            HitKind::Ipv4 => self.candidates(text, is_ipv4),
            HitKind::UsSsn => self.candidates(text, is_us_ssn),
            HitKind::Email
            | HitKind::Term
            | HitKind::Pattern
            | HitKind::Length
            | HitKind::Unreadable
            | HitKind::Injection => self.candidates(text, |_, _| true),
        }
    }

    /// What the expression matches and `is_real` confirms. Behind a refused candidate the search
    /// goes on at its second character, for what it covered; candidates are short, so time stays
    /// linear.
    fn candidates(&self, text: &str, is_real: impl Fn(&str, Span) -> bool) -> Vec<Span> {
        let mut found = Vec::new();
        let Some(candidate) = &self.candidate else { return found };
        let mut from = 0;
        while let Some(hit) = candidate.find_at(text, from) {
            let span = (hit.start(), hit.end());
            if is_real(text, span) {
                found.push(span);
                from = hit.end();
            } else {
                from = hit.start() + hit.as_str().chars().next().map_or(1, char::len_utf8);
            }
        }
        found
    }
}

fn digits(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.chars().filter_map(|c| c.to_digit(10))
}

fn before(text: &str, place: usize) -> Option<char> {
    text[..place].chars().next_back()
}

fn after(text: &str, place: usize) -> Option<char> {
    text[place..].chars().next()
}

fn is_inside_word(text: &str, (start, end): Span) -> bool {
    before(text, start).is_some_and(char::is_alphanumeric) || after(text, end).is_some_and(char::is_alphanumeric)
}

fn is_phone(text: &str, span: Span) -> bool {
    let number = &text[span.0..span.1];
    let count = digits(number).count();
    // A date (01-02-2024) has eight digits.
    let least = if number.starts_with('+') { 8 } else { 9 };
    // 00 and 15 digits are 17.
    let most = if number.starts_with("00") { 17 } else { 15 };
    (least..=most).contains(&count)
        && !after(text, span.1).is_some_and(|c| c.is_ascii_digit())
        && !before(text, span.0).is_some_and(|c| c.is_alphanumeric() || c == '+')
}

fn is_ipv4(text: &str, span: Span) -> bool {
    let octets_fit = text[span.0..span.1].split('.').all(|octet| octet.parse::<u8>().is_ok());
    // 1.2.3.4.5 is a version or a section.
    let goes_on_before = {
        let mut chars = text[..span.0].chars().rev();
        chars.next() == Some('.') && chars.next().is_some_and(|c| c.is_ascii_digit())
    };
    let goes_on_behind = {
        let mut chars = text[span.1..].chars();
        chars.next() == Some('.') && chars.next().is_some_and(|c| c.is_ascii_digit())
    };
    octets_fit && !goes_on_before && !goes_on_behind && !is_inside_word(text, span)
}

fn is_us_ssn(text: &str, span: Span) -> bool {
    let number = &text[span.0..span.1];
    let (area, group, serial) = (&number[..3], &number[4..6], &number[7..]);
    let is_issued = area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000";
    // 123-45-6789-1 is something else.
    let goes_on = |edge: Option<char>| edge == Some('-');
    is_issued
        && number.as_bytes()[3] == number.as_bytes()[6]
        && !goes_on(before(text, span.0))
        && !goes_on(after(text, span.1))
        && !is_inside_word(text, span)
}

fn ibans(text: &str) -> Vec<Span> {
    let bytes = text.as_bytes();
    let mut found: Vec<Span> = Vec::new();
    let mut place = 0;
    while place + 4 <= bytes.len() {
        let is_start = bytes[place].is_ascii_alphabetic()
            && bytes[place + 1].is_ascii_alphabetic()
            && bytes[place + 2].is_ascii_digit()
            && !before(text, place).is_some_and(char::is_alphanumeric);
        match is_start.then(|| iban::end_at(text, place)).flatten() {
            Some(end) if !after(text, end).is_some_and(char::is_alphanumeric) => {
                found.push((place, end));
                place = end;
            }
            // Only whole characters: the next boundary.
            Some(_) | None => {
                place += 1;
                while !text.is_char_boundary(place) {
                    place += 1;
                }
            }
        }
    }
    found
}

/// Card numbers: 13 to 19 digits, in one piece or in groups of at least four (the last may be
/// shorter) with single separators.
fn cards(text: &str) -> Vec<Span> {
    const MOST: usize = 19;
    let groups = digit_groups(text);
    let mut found = Vec::new();
    let mut first = 0;
    while first < groups.len() {
        let mut number = Vec::with_capacity(MOST);
        let mut best = None;
        for (index, group) in groups.iter().enumerate().skip(first) {
            let is_first = index == first;
            if !is_first && (!group.continues || number.len() + group.len() > MOST) {
                break;
            }
            if is_first && (group.len() > MOST || group.len() < 4) {
                break;
            }
            number.extend(digits(&text[group.span.0..group.span.1]));
            if is_card(&number) && !is_inside_word(text, (groups[first].span.0, group.span.1)) {
                best = Some(index);
            }
            // Only the last group may be short.
            if group.len() < 4 {
                break;
            }
        }
        match best {
            Some(last) => {
                found.push((groups[first].span.0, groups[last].span.1));
                first = last + 1;
            }
            None => first += 1,
        }
    }
    found
}

struct DigitGroup {
    span: Span,
    /// Whether one separator lies between it and the group before.
    continues: bool,
}

impl DigitGroup {
    fn len(&self) -> usize {
        self.span.1 - self.span.0
    }
}

fn digit_groups(text: &str) -> Vec<DigitGroup> {
    let mut groups: Vec<DigitGroup> = Vec::new();
    let mut open: Option<usize> = None;
    let bounds = text.bytes().enumerate().map(|(place, byte)| (place, byte.is_ascii_digit()));
    for (place, is_digit) in bounds.chain([(text.len(), false)]) {
        match (open, is_digit) {
            (None, true) => open = Some(place),
            (Some(start), false) => {
                let gap = groups.last().map(|last| &text[last.span.1..start]);
                let continues = matches!(gap, Some(" " | "-" | "\u{a0}"));
                groups.push(DigitGroup { span: (start, place), continues });
                open = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
    groups
}

/// A length and first digit that cards have, and the Luhn checksum.
fn is_card(number: &[u32]) -> bool {
    let luhn = || {
        let sum: u32 = number
            .iter()
            .rev()
            .enumerate()
            .map(|(place, digit)| match (place % 2, digit * 2) {
                (0, _) => *digit,
                (_, double) if double > 9 => double - 9,
                (_, double) => double,
            })
            .sum();
        sum.is_multiple_of(10)
    };
    (13..=19).contains(&number.len()) && (2..=6).contains(&number[0]) && luhn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: HitKind, text: &str, expected: &[&str]) {
        let all = Some(Action::Redact);
        let rules = PiiRules { email: all, phone: all, iban: all, credit_card: all, ipv4: all, us_ssn: all };
        let finders = Finder::all(&rules).expect("the built-in expressions");
        let finder = finders.iter().find(|finder| finder.kind == kind).expect("a finder of every kind");
        let found: Vec<&str> = finder.find(text).iter().map(|(start, end)| &text[*start..*end]).collect();
        assert_eq!(found, expected, "{kind:?} in {text:?}");
    }

    #[test]
    fn emails() {
        let check = |text, expected: &[&str]| check(HitKind::Email, text, expected);
        check("Write to Bob.O'Neil+x@mail.example.co.uk, or a@b.io.", &["Bob.O'Neil+x@mail.example.co.uk", "a@b.io"]);
        check("mailto:jürgen@münchen.de", &["jürgen@münchen.de"]);
        check("<a_b-c@x-y.org>", &["a_b-c@x-y.org"]);
        check("a@b, @home, a@b.c, user@localhost, 3 @ 4.50", &[]);
    }

    #[test]
    fn phones() {
        let check = |text, expected: &[&str]| check(HitKind::Phone, text, expected);
        check("Call +49 (0)30 1234567 or +1-555-123-4567.", &["+49 (0)30 1234567", "+1-555-123-4567"]);
        check("+4915112345678", &["+4915112345678"]);
        check("0049 30 1234567", &["0049 30 1234567"]);
        check("(555) 123-4567, 555.123.4567 and 1-555-123-4567", &["(555) 123-4567", "555.123.4567", "1-555-123-4567"]);
        check("020 7946 0958, 0171/1234567", &["020 7946 0958", "0171/1234567"]);
        check("on 01-02-2024 and 2024-01-02 at 10:30, 1 000 000, 3.14159265, 12345678901", &[]);
        check("+1 23, x+4915112345678", &[]);
        check("+49 30 12345678901234567890", &[]);
    }

    #[test]
    fn bank_accounts() {
        let check = |text, expected: &[&str]| check(HitKind::Iban, text, expected);
        check("IBAN: DE89 3704 0044 0532 0130 00, thanks", &["DE89 3704 0044 0532 0130 00"]);
        check("äGB29NWBK60161331926819 GB29NWBK60161331926819", &["GB29NWBK60161331926819"]);
        check("DE893704004405320130001", &[]);
        check("DE88370400440532013000", &[]);
        check("ÄÄ12", &[]);
    }

    #[test]
    fn cards() {
        let check = |text, expected: &[&str]| check(HitKind::CreditCard, text, expected);
        check("4111111111111111", &["4111111111111111"]);
        check("pay 4111 1111 1111 1111 now", &["4111 1111 1111 1111"]);
        check("5500-0000-0000-0004, 3782 822463 10005", &["5500-0000-0000-0004", "3782 822463 10005"]);
        check("4222222222222 6011000990139424", &["4222222222222", "6011000990139424"]);
        check("order 1234 4111 1111 1111 1111", &["4111 1111 1111 1111"]);
        check("4111111111111112, x4111111111111111, 41111111111111111111111111", &[]);
        check("4111  1111 1111 1111 and 0000000000000000", &[]);
        check("411 1111 1111 1111 1", &[]);
    }

    #[test]
    fn addresses() {
        let check = |text, expected: &[&str]| check(HitKind::Ipv4, text, expected);
        check("from 10.0.0.1 to 255.255.255.255.", &["10.0.0.1", "255.255.255.255"]);
        check("http://192.168.1.1:8080/", &["192.168.1.1"]);
        check("1.2.3.4.5, 256.1.1.1, 1.2.3, v10.0.0.1, ä10.0.0.1, 10.0.0.1ä", &[]);
    }

    #[test]
    fn social_security_numbers() {
        let check = |text, expected: &[&str]| check(HitKind::UsSsn, text, expected);
        check("SSN 123-45-6789 or 123 45 6789.", &["123-45-6789", "123 45 6789"]);
        check("000-45-6789 666-45-6789 900-45-6789 123-00-6789 123-45-0000", &[]);
        check("123-45 6789, 1123-45-6789, 123-45-67890, 123-45-6789-1, 123-45-6789ä", &[]);
    }
}
