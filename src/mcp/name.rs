//! Names that every program compares alike.

use unicode_normalization::is_nfkc;

/// The longest name with other characters than ASCII. The protocol asks for at most 128; finding out what
/// NFKC does to a name takes time and memory in proportion to it.
const MAX_UNICODE_BYTES: usize = 1024;

/// Whether a name is one that another program takes for no other: neither by stopping at a NUL, nor by
/// dropping what cannot be seen, nor by normalizing it.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    if name.is_ascii() {
        return Ok(());
    }
    if name.chars().any(is_invisible) {
        return Err("holds a format character, or another that cannot be seen");
    }
    if name.len() > MAX_UNICODE_BYTES {
        return Err("is longer than 1 KiB, and not ASCII");
    }
    // UAX #15: compatibility composition, as identifiers are compared by PRECIS and Python.
    if is_nfkc(name) {
        Ok(())
    } else {
        Err("is another name after NFKC")
    }
}

/// Whether a resource's URI has no control characters. No rule reads more of it, and what it may hold is
/// its server's own matter.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn check_uri(uri: &str) -> Result<(), &'static str> {
    if uri.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    Ok(())
}

/// Format characters (the general category Cf) and what else Unicode lets programs ignore
/// (`Default_Ignorable_Code_Point`): `NFKC_Casefold` drops the latter, and people see neither. Both as of
/// Unicode 17, with the blocks that are reserved for more of them.
const fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::{check_name, check_uri, is_invisible};

    #[test]
    fn names_in_any_script_are_names() {
        for name in [
            "",
            "read",
            "a b",
            " read ",
            "delete_user-2.x/y:z",
            "äö",
            "straße",
            "инструмент",
            "工具",
            "كتابة",
            // Written with marks that may compose with what stands before them, and do not here.
            "\u{b95}\u{bbe}",
            "q\u{323}\u{308}",
            "\u{1f600}",
            &"x".repeat(1 << 20),
            &"ä".repeat(512),
        ] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn names_that_somebody_takes_for_another_are_none() {
        for name in [
            // A C string ends here; trim and strip take these away.
            "run_shell\0",
            "run_shell\0x",
            "\0",
            "run_shell\u{1f}",
            "\u{1c}run_shell",
            "run_shell\n",
            "run\tshell",
            "run_shell\u{7f}",
            "run_shell\u{85}",
            "\u{feff}run_shell",
            "run_shell\u{feff}",
            // Not seen.
            "run\u{200b}_shell",
            "run\u{200c}_shell",
            "run\u{200d}_shell",
            "\u{200e}run_shell",
            "run_shell\u{200f}",
            "run\u{202e}llehs_\u{202c}",
            "run\u{2060}_shell",
            "run\u{2064}_shell",
            "\u{2066}run_shell\u{2069}",
            "run\u{ad}_shell",
            "run\u{61c}_shell",
            "run\u{180e}_shell",
            "run\u{34f}_shell",
            "run_shell\u{fe0f}",
            "run_shell\u{e0020}",
            "run\u{fff9}_shell",
            "run_shell\u{3164}",
            "run_shell\u{1160}",
            // Changed by NFKC.
            "ｒｕｎ_ｓｈｅｌｌ",
            "run＿shell",
            "run_\u{17f}hell",
            "\u{212a}ill",
            "run_she\u{2113}l",
            "run_shell\u{a0}",
            "run\u{2003}shell",
            "tools\u{ff0f}call",
            "\u{fb01}le",
            "a\u{308}",
            "\u{1d5cb}un_shell",
            "run_shell\u{b2}",
            &"ä".repeat(513),
            &"\u{338}\u{31b}".repeat(1 << 18),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_uri_may_hold_anything_but_control_characters() {
        for uri in ["file:///a", "file:///ä/\u{200d}ﬁ", "", "no uri"] {
            assert_eq!(check_uri(uri), Ok(()), "{uri:?}");
        }
        for uri in ["file:///a\0", "file:///a\r\nb", "\u{85}", "a\u{9f}"] {
            assert!(check_uri(uri).is_err(), "{uri:?}");
        }
    }

    #[test]
    fn the_table_has_every_format_character() {
        use unicode_general_category::{GeneralCategory, get_general_category};
        let formats = ('\0'..=char::MAX)
            .filter(|letter| get_general_category(*letter) == GeneralCategory::Format);
        let missing: Vec<char> = formats.clone().filter(|one| !is_invisible(*one)).collect();
        assert!(formats.count() > 150);
        assert!(missing.is_empty(), "{missing:?}");
        // And nothing that is written.
        let written = |letter: &char| letter.is_alphanumeric() && is_invisible(*letter);
        let found: Vec<char> = ('\0'..=char::MAX).filter(written).collect();
        assert_eq!(found, ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'],);
    }
}
