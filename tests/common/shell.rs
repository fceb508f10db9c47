//! Reads command lines out of texts: enough of a shell's grammar for documentation.

/// The command lines of `text`: lines joined where one ends with a backslash.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.lines() {
        match line.trim_end().strip_suffix('\\') {
            Some(part) => {
                open.push_str(part);
                open.push(' ');
            }
            None => {
                open.push_str(line);
                lines.push(std::mem::take(&mut open));
            }
        }
    }
    if !open.is_empty() {
        lines.push(open);
    }
    lines
}

/// The words of every call of etcdvault in a command line, without the variables
/// before and the redirections after it.
pub(crate) fn calls(line: &str) -> Vec<Vec<String>> {
    split(line)
        .into_iter()
        .filter_map(|mut words| {
            let at = words.iter().position(|word| word == "etcdvault")?;
            let before = |word: &String| word.contains('=') || word == "sudo" || word == "time";
            words[..at].iter().all(before).then(|| words.split_off(at))
        })
        .collect()
}

/// The commands of a line, split at `|`, `;`, `&`; each as its words.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    let end_word = |word: &mut Option<String>, commands: &mut Vec<Vec<String>>| {
        if let Some(word) = word.take()
            && let Some(command) = commands.last_mut()
        {
            command.push(word);
        }
    };
    let mut redirected = false;
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().take_while(|&c| c != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().take_while(|&c| c != '"'));
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '#' if word.is_none() => break,
            '|' | ';' | '&' => {
                end_word(&mut word, &mut commands);
                commands.push(Vec::new());
                redirected = false;
            }
            '>' | '<' => {
                // `2>` is a redirection too.
                if word.as_deref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    word = None;
                }
                end_word(&mut word, &mut commands);
                while chars.next_if(|&c| c == '>' || c == '&' || c == ' ').is_some() {}
                redirected = true;
            }
            c if c.is_whitespace() => {
                if redirected && word.is_some() {
                    word = None;
                    redirected = false;
                }
                end_word(&mut word, &mut commands);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    if !redirected {
        end_word(&mut word, &mut commands);
    }
    commands.retain(|command| !command.is_empty());
    commands
}

#[test]
fn command_lines_are_read() {
    let joined = lines("a \\\n  b\nc");
    assert_eq!(joined.len(), 2);
    assert_eq!(calls("a   b; etcdvault list").len(), 1);
    let words = |line: &str| calls(line).into_iter().next().unwrap_or_default();
    assert_eq!(
        words("A=b etcdvault show 'a b' \"c d\" > file"),
        ["etcdvault", "show", "a b", "c d"]
    );
    assert_eq!(words("zstd -dc x 2>/dev/null | etcdvault restore data-dir - 2> e -q").len(), 5);
    assert!(words("echo etcdvault list").is_empty());
    assert_eq!(words("etcdvault list # all"), ["etcdvault", "list"]);
}
