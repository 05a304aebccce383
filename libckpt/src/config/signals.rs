//! Names of signals in mana.conf.

/// Those a batch system or a user may send to announce something. What the kernel sends for a
/// program's mistake, and what nobody can catch, is not among them.
const NAMES: [(&str, i32); 13] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("TSTP", libc::SIGTSTP),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("WINCH", libc::SIGWINCH),
    ("PWR", libc::SIGPWR),
];

/// The numbers of a list of names, separated by blanks or commas, with or without `SIG`.
pub(super) fn numbers(list: &str) -> Result<Vec<i32>, String> {
    let words = list.split([',', ' ', '\t']).filter(|word| !word.is_empty());
    let found: Vec<i32> = words.map(number).collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err("names no signal; \"none\" leaves all to the program".into());
    }
    Ok(found)
}

fn number(word: &str) -> Result<i32, String> {
    let upper = word.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES
        .iter()
        .find_map(|(name, number)| (*name == bare).then_some(*number))
        .ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("{word:?} is none of {}, auto, none", known.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names() {
        assert_eq!(numbers("TERM"), Ok(vec![15]));
        assert_eq!(numbers("SIGTERM, usr1 USR2"), Ok(vec![15, 10, 12]));
        assert!(numbers("").is_err());
        let text = numbers("KILL").expect_err("cannot be caught");
        assert!(text.contains("KILL") && text.contains("TERM"), "{text}");
    }
}
