//! What ssh, the login's shell and the loader say when no agent comes to run, as a
//! cause with a remedy. Pure over text.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::super::remote::Cause;
use crate::node::NodeErrorKind as Kind;

/// A text to look for, what it means, and what to do; `{}` is the destination.
type Rule = (&'static str, Kind, &'static str, &'static str);

/// The first that is found counts: what says more stands first.
const RULES: &[Rule] = &[
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        Kind::Unexpected,
        "the host key of the node is another one than before",
        "if the node was set up anew, forget the old key with: ssh-keygen -R HOST (HOST:PORT as [HOST]:PORT); otherwise somebody else answers there",
    ),
    (
        "Host key verification failed",
        Kind::Unexpected,
        "the host key of the node is not known",
        "connect once with: ssh {}, compare the fingerprint and accept it, or put the key into known_hosts",
    ),
    (
        "Could not resolve hostname",
        Kind::Lost,
        "the name of the node is not known",
        "check the address in the configuration and in ssh_config",
    ),
    (
        "Permission denied (",
        Kind::Permission,
        "the node accepts none of the ssh keys",
        "check that this works without a question: ssh -o BatchMode=yes {} true",
    ),
    (
        "Too many authentication failures",
        Kind::Permission,
        "the node accepts none of the ssh keys",
        "name the key in ssh_config with IdentityFile and IdentitiesOnly yes",
    ),
    (
        "Bad owner or permissions on",
        Kind::Other,
        "ssh refuses its configuration",
        "make the file named above belong to you, writable by nobody else",
    ),
    (
        "Bad configuration option",
        Kind::Other,
        "ssh refuses its configuration",
        "correct the line named above",
    ),
    (
        "Connection refused",
        Kind::Lost,
        "no sshd answers at the node's port",
        "check the address and the port, and that sshd runs",
    ),
    (
        "No route to host",
        Kind::Lost,
        "there is no route to the node",
        "check the network between here and the node",
    ),
    (
        "Network is unreachable",
        Kind::Lost,
        "there is no route to the node",
        "check the network between here and the node",
    ),
    (
        "timed out",
        Kind::Lost,
        "the node does not answer",
        "check that it runs, and what is between here and there",
    ),
    (
        "Timeout, server",
        Kind::Lost,
        "the node stopped answering",
        "check that it runs, and what is between here and there",
    ),
    (
        "sudo: a password is required",
        Kind::Permission,
        "sudo on the node asks for a password",
        "let the login run sudo without one (NOPASSWD), or log in as root",
    ),
    (
        "sudo: a terminal is required",
        Kind::Permission,
        "sudo on the node asks for a password",
        "let the login run sudo without one (NOPASSWD), or log in as root",
    ),
    (
        "is not in the sudoers file",
        Kind::Permission,
        "the login may not use sudo",
        "allow it in sudoers, or log in as root",
    ),
    (
        "may not run sudo",
        Kind::Permission,
        "the login may not use sudo",
        "allow it in sudoers, or log in as root",
    ),
    (
        "sudo: not found",
        Kind::Permission,
        "the login is not root and the node has no sudo",
        "log in as root, or install sudo",
    ),
    (
        "not allowed to execute",
        Kind::Permission,
        "sudo does not let the login run /bin/sh",
        "allow /bin/sh in sudoers, or log in as root",
    ),
    (
        "etcdvault: unsafe path",
        Kind::Permission,
        "the agent's place on the node can be changed by others",
        "correct owner and mode of the path named above",
    ),
    (
        "etcdvault: no program at",
        Kind::NotFound,
        "the configured agent path leads to no program",
        "install etcdvault there, or configure no path and let this one be uploaded",
    ),
    (
        "etcdvault: the program",
        Kind::Unexpected,
        "the upload of the program failed",
        "try again; see whether the node's disk is sound",
    ),
    (
        "No space left on device",
        Kind::NoSpace,
        "the node has no space left for the program",
        "make room below /var/lib/etcdvault-agent",
    ),
    (
        "Read-only file system",
        Kind::ReadOnly,
        "the program cannot be stored on the node",
        "configure an agent path",
    ),
    (
        "Exec format error",
        Kind::Unsupported,
        "the program is built for another processor than the node's",
        "install etcdvault for the node's processor there and configure its agent path",
    ),
    (
        "cannot execute binary file",
        Kind::Unsupported,
        "the program is built for another processor than the node's",
        "install etcdvault for the node's processor there and configure its agent path",
    ),
    (
        "' not found (required by",
        Kind::Unsupported,
        "the node's C library is older than the program was built for",
        "use the released program, which needs glibc 2.17, or configure an agent path",
    ),
    (
        "error while loading shared libraries",
        Kind::Unsupported,
        "the node lacks a library that the program needs",
        "use the released program, or configure an agent path",
    ),
    (
        "etcdvault: Permission denied",
        Kind::Permission,
        "the node may not run programs from the agent's place",
        "it may be mounted noexec: configure an agent path elsewhere",
    ),
    (
        "unrecognized subcommand",
        Kind::Unsupported,
        "the program on the node is another etcdvault",
        "install this version there, or configure no agent path and let this one be uploaded",
    ),
];

/// Why the connection to `destination` is no more: what its stderr ended with, and
/// how ssh ended.
pub(crate) fn diagnose(destination: &str, stderr: &str, status: Option<ExitStatus>) -> Cause {
    let lines = stderr.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let details: Vec<String> = lines.map(str::to_owned).collect();
    let details = details[details.len().saturating_sub(30)..].to_vec();
    let code = status.and_then(|status| status.code());
    let rule = RULES.iter().find(|(text, ..)| stderr.contains(text));
    let (kind, why, hint) = match rule {
        // What a working agent or a banner says must not be taken for ssh's word.
        Some((_, kind, why, hint)) if code != Some(0) => {
            (*kind, (*why).to_owned(), Some(hint.replace("{}", destination)))
        }
        _ => {
            let why = match (code, status.and_then(|status| status.signal())) {
                (Some(0), _) => "the agent ended".to_owned(),
                (Some(255), _) => "ssh lost the connection".to_owned(),
                (Some(127), _) => "the login has no /bin/sh".to_owned(),
                (Some(code), _) => format!("the remote command ended with {code}"),
                (None, Some(signal)) => format!("ssh was ended by signal {signal}"),
                (None, None) => "ssh did not end".to_owned(),
            };
            (Kind::Lost, why, None)
        }
    };
    Cause { kind, why, details, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn what_ssh_and_the_node_say_is_understood() {
        for (stderr, code, kind, why) in [
            (
                "ssh: Could not resolve hostname no.such: Name or service not known\r\n",
                255,
                Kind::Lost,
                "name of the node",
            ),
            (
                "root@10.0.0.1: Permission denied (publickey).\r\n",
                255,
                Kind::Permission,
                "none of the ssh keys",
            ),
            (
                "ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n",
                255,
                Kind::Lost,
                "no sshd",
            ),
            (
                "ssh: connect to host 10.9.9.9 port 22: Connection timed out\r\n",
                255,
                Kind::Lost,
                "does not answer",
            ),
            ("sudo: a password is required\n", 1, Kind::Permission, "sudo"),
            ("/bin/sh: 1: exec: sudo: not found\n", 127, Kind::Permission, "no sudo"),
            (
                "/x/etcdvault: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /x/etcdvault)\n",
                1,
                Kind::Unsupported,
                "C library",
            ),
            (
                "etcdvault: 1: /x/etcdvault: Exec format error\n",
                126,
                Kind::Unsupported,
                "another processor",
            ),
            (
                "head: error writing 'standard output': No space left on device\n",
                1,
                Kind::NoSpace,
                "no space",
            ),
            ("Timeout, server 10.0.0.1 not responding.\r\n", 255, Kind::Lost, "stopped answering"),
            ("", 255, Kind::Lost, "ssh lost"),
            ("", 0, Kind::Lost, "the agent ended"),
        ] {
            let cause = diagnose("root@node", stderr, exit(code));
            assert_eq!(cause.kind, kind, "{stderr}");
            assert!(cause.why.contains(why), "{stderr}: {}", cause.why);
        }
        let killed = diagnose("node", "", Some(ExitStatus::from_raw(9)));
        assert_eq!(killed.why, "ssh was ended by signal 9");
    }
}
