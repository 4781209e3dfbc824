//! International bank account numbers, ISO 13616.

/// Countries and the lengths of their numbers, from the registry of SWIFT.
const LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 \
    DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 \
    IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 \
    OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 \
    UA29 VA22 VG24 XK20 YE30";

/// The end of the number that begins at `start`, if one does: as many letters and digits as its
/// country's numbers have, with single separators between them, and a valid checksum.
pub(crate) fn end_at(text: &str, start: usize) -> Option<usize> {
    let bytes = &text.as_bytes()[start..];
    let country = [bytes.first()?.to_ascii_uppercase(), bytes.get(1)?.to_ascii_uppercase()];
    if !bytes.get(2)?.is_ascii_digit() || !bytes.get(3)?.is_ascii_digit() {
        return None;
    }
    let length = length_of(country)?;
    let mut digits = [0_u8; 34];
    let mut count = 0;
    let mut may_separate = false;
    for (place, c) in text[start..].char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => {
                digits[count] = u8::try_from(c.to_digit(36)?).ok()?;
                count += 1;
                may_separate = true;
                if count == length {
                    return is_valid(&digits[..count]).then_some(start + place + 1);
                }
            }
            ' ' | '-' | '\u{a0}' if may_separate => may_separate = false,
            _ => return None,
        }
    }
    None
}

fn length_of(country: [u8; 2]) -> Option<usize> {
    LENGTHS.split_ascii_whitespace().find(|entry| entry.as_bytes()[..2] == country)?[2..].parse().ok()
}

/// The number with its first four places moved to the end, letters as 10 to 35, is 1 modulo 97.
fn is_valid(digits: &[u8]) -> bool {
    let (head, rest) = digits.split_at(4);
    let remainder = rest.iter().chain(head).fold(0_u32, |remainder, digit| {
        let shift = if *digit > 9 { 100 } else { 10 };
        (remainder * shift + u32::from(*digit)) % 97
    });
    remainder == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(end_at(text, 0).map(|end| &text[..end]), expected, "{text}");
    }

    #[test]
    fn the_registrys_examples_are_found() {
        for iban in [
            "DE89370400440532013000",
            "GB29NWBK60161331926819",
            "FR1420041010050500013M02606",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "LC55HEMM000100010012001200023015",
            "CH93 0076 2011 6238 5295 7",
            "gb29 nwbk 6016 1331 9268 19",
            "DE89-3704-0044-0532-0130-00",
        ] {
            check(iban, Some(iban));
        }
        check("DE89 3704 0044 0532 0130 00 is mine", Some("DE89 3704 0044 0532 0130 00"));
    }

    #[test]
    fn others_are_not() {
        for text in [
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE89  370400440532013000",
            "XX89370400440532013000",
            "DE",
            "DEä9370400440532013000",
            "DE8937040044053201300ä",
            "",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn every_length_fits_the_buffer() {
        for entry in LENGTHS.split_ascii_whitespace() {
            let length: usize = entry[2..].parse().expect("a number");
            assert!((15..=34).contains(&length), "{entry}");
        }
    }
}
