//! `user[:group]`, by name or number.

use super::SettingError;

/// Resolves the owner of files to numbers with `/etc/passwd` and `/etc/group`. Without
/// a group it is the user's own one.
pub fn resolve(text: &str) -> Result<(u32, u32), SettingError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let passwd = read("/etc/passwd")?;
    let entry = entry(&passwd, user);
    let uid = user.parse().ok().or_else(|| field(entry?, 2)).ok_or_else(|| {
        SettingError::new(format!("there is no user {user:?} on this machine"))
            .hint("--owner takes user[:group], by name or number")
    })?;
    let gid = match group.filter(|group| !group.is_empty()) {
        Some(group) => {
            let groups = read("/etc/group")?;
            let entry = self::entry(&groups, group).map(str::to_owned);
            group.parse().ok().or_else(|| field(&entry?, 2)).ok_or_else(|| {
                SettingError::new(format!("there is no group {group:?} on this machine"))
                    .hint("--owner takes user[:group], by name or number")
            })?
        }
        None => entry.and_then(|entry| field(entry, 3)).unwrap_or(uid),
    };
    Ok((uid, gid))
}

fn read(path: &str) -> Result<String, SettingError> {
    std::fs::read_to_string(path)
        .map_err(|error| SettingError::new(format!("cannot read {path}: {error}")))
}

fn entry<'a>(file: &'a str, name: &str) -> Option<&'a str> {
    file.lines().find(|line| line.split(':').next() == Some(name))
}

fn field(entry: &str, index: usize) -> Option<u32> {
    entry.split(':').nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(resolve("root").unwrap(), (0, 0));
        assert_eq!(resolve("root:root").unwrap(), (0, 0));
        assert_eq!(resolve("12345").unwrap(), (12345, 12345));
        assert_eq!(resolve("0:7").unwrap(), (0, 7));
        assert!(resolve("no-such-user-here").is_err());
        assert!(resolve("root:no-such-group-here").is_err());
    }
}
