//! Encryption at the client with age: what is stored can be read by
//! `age -d`, and only with a key that the vault never sees.
//!
//! No secret is in any error, `Debug` text or stored byte.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::str::FromStr;

use age::DecryptError;
use age::secrecy::SecretString;
use age::stream::{StreamReader, StreamWriter};

/// The scrypt work factor (log2 of N) of passphrases when nothing else is said:
/// the one that the `age` program uses. Costs 256 MiB and about a second for
/// each object written or opened.
pub const WORK_FACTOR: u8 = 18;
/// The largest work factor that is followed when reading: 1 GiB.
pub const MAX_WORK_FACTOR: u8 = 20;

/// The longest header of an age file that is read: room for 300 recipients.
const MAX_HEADER: usize = 32 * 1024;

/// Why a key, or what it should open, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// No recipient of the form `age1…`.
    #[error("recipient {number} is not an age X25519 public key (age1…)")]
    InvalidRecipient {
        /// Its position, from 1.
        number: usize,
    },
    /// A line of an identity file is neither a comment nor an identity.
    #[error("line {line} of the identity is not an age X25519 secret key (AGE-SECRET-KEY-1…)")]
    InvalidIdentity {
        /// The line, from 1.
        line: usize,
    },
    /// A text without any identity.
    #[error("the identity file holds no age secret key")]
    NoIdentity,
    /// An empty passphrase.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A work factor that no reader would follow, or none at all.
    #[error("a work factor must be 1 to 20")]
    WorkFactor,
    /// No recipient was given.
    #[error("no recipient was given")]
    NoRecipient,
    /// The key does not open it. Exit code 12 at the command line.
    #[error("the key does not open it")]
    WrongKey,
    /// It asks for more work than is reasonable.
    #[error("its passphrase asks for a work factor of {required}; at most 20 is followed")]
    ExcessiveWork {
        /// The work factor asked for.
        required: u8,
    },
    /// It is no age file, or a damaged one.
    #[error("its encryption header is damaged")]
    Damaged,
    /// Its bytes could not be read or written.
    #[error("read or write encrypted bytes")]
    Io(#[source] io::Error),
}

/// A passphrase. Its `Debug` text does not show it.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes the passphrase as it is; surrounding white space is the caller's
    /// affair.
    pub fn new(text: String) -> Result<Self, EncryptionError> {
        if text.is_empty() {
            return Err(EncryptionError::EmptyPassphrase);
        }
        Ok(Self(SecretString::from(text)))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// The public half of a key pair: `age1…`.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = EncryptionError;

    fn from_str(text: &str) -> Result<Self, EncryptionError> {
        let recipient =
            text.trim().parse().map_err(|_| EncryptionError::InvalidRecipient { number: 1 })?;
        Ok(Self(recipient))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The recipients in `texts`, one each.
pub fn parse_recipients<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Recipient>, EncryptionError> {
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            text.as_ref().parse().map_err(|_| EncryptionError::InvalidRecipient { number: at + 1 })
        })
        .collect()
}

/// What opens encrypted objects: secret keys, or a passphrase. Its `Debug` text
/// shows only which.
#[derive(Clone)]
pub struct Identities(Inner);

#[derive(Clone)]
enum Inner {
    Keys(Vec<age::x25519::Identity>),
    Passphrase(Passphrase),
}

impl Identities {
    /// The secret keys in the text of an identity file as `age-keygen` writes it:
    /// one a line, empty lines and `#` comments between.
    pub fn from_text(text: &str) -> Result<Self, EncryptionError> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = age::x25519::Identity::from_str(line)
                .map_err(|_| EncryptionError::InvalidIdentity { line: at + 1 })?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(EncryptionError::NoIdentity);
        }
        Ok(Self(Inner::Keys(keys)))
    }

    /// A passphrase.
    pub fn from_passphrase(passphrase: Passphrase) -> Self {
        Self(Inner::Passphrase(passphrase))
    }

    pub(crate) fn passphrase(&self) -> Option<&Passphrase> {
        match &self.0 {
            Inner::Passphrase(passphrase) => Some(passphrase),
            Inner::Keys(_) => None,
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Keys(keys) => write!(f, "Identities({} keys)", keys.len()),
            Inner::Passphrase(_) => f.write_str("Identities(passphrase)"),
        }
    }
}

/// How a new vault is to be encrypted.
#[derive(Debug, Clone)]
pub enum EncryptionChoice {
    /// Not at all.
    None,
    /// To these recipients; any one of their secret keys opens everything.
    Recipients(Vec<Recipient>),
    /// To a passphrase.
    Passphrase {
        /// The passphrase.
        passphrase: Passphrase,
        /// log2 of scrypt's N, see [`WORK_FACTOR`].
        work_factor: u8,
    },
}

/// What encrypts.
#[derive(Debug, Clone)]
pub(crate) enum Encryptor {
    Recipients(Vec<Recipient>),
    Passphrase { passphrase: Passphrase, work_factor: u8 },
}

impl Encryptor {
    /// What `choice` asks for; `None` for no encryption.
    pub(crate) fn new(choice: &EncryptionChoice) -> Result<Option<Self>, EncryptionError> {
        match choice {
            EncryptionChoice::None => Ok(None),
            EncryptionChoice::Recipients(recipients) if recipients.is_empty() => {
                Err(EncryptionError::NoRecipient)
            }
            EncryptionChoice::Recipients(recipients) => {
                Ok(Some(Self::Recipients(recipients.clone())))
            }
            EncryptionChoice::Passphrase { work_factor, .. }
                if !(1..=MAX_WORK_FACTOR).contains(work_factor) =>
            {
                Err(EncryptionError::WorkFactor)
            }
            EncryptionChoice::Passphrase { passphrase, work_factor } => {
                Ok(Some(Self::Passphrase {
                    passphrase: passphrase.clone(),
                    work_factor: *work_factor,
                }))
            }
        }
    }

    /// Writes the header to `out` and encrypts what is written then. The result
    /// must be finished.
    pub(crate) fn wrap<W: Write>(&self, out: W) -> Result<StreamWriter<W>, EncryptionError> {
        let encryptor = match self {
            Self::Recipients(recipients) => age::Encryptor::with_recipients(
                recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient),
            ),
            Self::Passphrase { passphrase, work_factor } => {
                let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
                recipient.set_work_factor(*work_factor);
                age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        encryptor
            .map_err(|_| EncryptionError::NoRecipient)?
            .wrap_output(out)
            .map_err(EncryptionError::Io)
    }

    /// `plain`, encrypted.
    pub(crate) fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let mut writer = self.wrap(Vec::new())?;
        writer.write_all(plain).map_err(EncryptionError::Io)?;
        writer.finish().map_err(EncryptionError::Io)
    }
}

/// A stream of which the beginning, with the header, has been read already. The
/// header must neither be held without bound nor parsed over and over.
pub(crate) struct Begun<R> {
    head: Vec<u8>,
    at: usize,
    rest: R,
}

impl<R: Read> Begun<R> {
    /// Reads up to the end of the header's last line and the nonce behind it.
    fn new(mut rest: R) -> Result<Self, EncryptionError> {
        const NONCE: usize = 16;
        let mut head = vec![0; MAX_HEADER];
        let (mut filled, mut needed) = (0, None);
        loop {
            if let Some(needed) = needed
                && filled >= needed
            {
                break;
            }
            if filled == head.len() {
                return Err(EncryptionError::Damaged);
            }
            let most = head.len().min(filled + 4096);
            match rest.read(&mut head[filled..most]) {
                Ok(0) => return Err(EncryptionError::Damaged),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(EncryptionError::Io(error)),
            }
            if needed.is_none() {
                let last = head[..filled].windows(5).position(|window| window == b"\n--- ");
                needed = last.and_then(|last| {
                    let line = head[last + 1..filled].iter().position(|byte| *byte == b'\n')?;
                    Some(last + 1 + line + 1 + NONCE)
                });
            }
        }
        head.truncate(filled);
        Ok(Self { head, at: 0, rest })
    }
}

impl<R: Read> Read for Begun<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.head.len() {
            return self.rest.read(buf);
        }
        let count = (&self.head[self.at..]).read(buf)?;
        self.at += count;
        Ok(count)
    }
}

impl<R: Read> BufRead for Begun<R> {
    /// Only the beginning: nothing needs more through this interface.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.head[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.head.len());
    }
}

impl<R: Seek> Seek for Begun<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let ahead = (self.head.len() - self.at) as i64;
        let to = match to {
            SeekFrom::Current(offset) => SeekFrom::Current(offset.saturating_sub(ahead)),
            other => other,
        };
        let position = self.rest.seek(to)?;
        self.at = self.head.len();
        Ok(position)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        let ahead = (self.head.len() - self.at) as u64;
        self.rest
            .stream_position()?
            .checked_sub(ahead)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// Reads the header from `input` and decrypts what follows. A chunk that does
/// not match its key fails with [`io::ErrorKind::InvalidData`], a missing end
/// with [`io::ErrorKind::UnexpectedEof`]. `input` must stand at its beginning.
pub(crate) fn decrypt<R: Read>(
    input: R,
    identities: &Identities,
) -> Result<StreamReader<Begun<R>>, EncryptionError> {
    let decryptor = age::Decryptor::new_buffered(Begun::new(input)?).map_err(decrypt_error)?;
    match &identities.0 {
        Inner::Keys(keys) => decryptor.decrypt(keys.iter().map(|key| key as &dyn age::Identity)),
        Inner::Passphrase(passphrase) => {
            let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
        }
    }
    .map_err(decrypt_error)
}

fn decrypt_error(error: DecryptError) -> EncryptionError {
    match error {
        DecryptError::NoMatchingKeys
        | DecryptError::DecryptionFailed
        | DecryptError::KeyDecryptionFailed => EncryptionError::WrongKey,
        DecryptError::ExcessiveWork { required, .. } => EncryptionError::ExcessiveWork { required },
        DecryptError::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) =>
        {
            EncryptionError::Io(source)
        }
        _ => EncryptionError::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Identities, Recipient) {
        let identity = age::x25519::Identity::generate();
        let recipient = Recipient(identity.to_public());
        (Identities(Inner::Keys(vec![identity])), recipient)
    }

    fn open(bytes: &[u8], identities: &Identities) -> Result<Vec<u8>, EncryptionError> {
        let mut plain = Vec::new();
        decrypt(bytes, identities)?.read_to_end(&mut plain).map_err(EncryptionError::Io)?;
        Ok(plain)
    }

    #[test]
    fn any_recipient_opens_and_no_other() {
        let ((a, to_a), (b, to_b), (c, _)) = (pair(), pair(), pair());
        let bytes = Encryptor::Recipients(vec![to_a, to_b]).encrypt(b"plain").unwrap();
        assert_eq!(open(&bytes, &a).unwrap(), b"plain");
        assert_eq!(open(&bytes, &b).unwrap(), b"plain");
        assert!(matches!(open(&bytes, &c), Err(EncryptionError::WrongKey)));
        let word = Identities::from_passphrase(Passphrase::new("x".into()).unwrap());
        assert!(matches!(open(&bytes, &word), Err(EncryptionError::WrongKey)));
    }

    #[test]
    fn passphrase_opens_and_no_other() {
        let word = |text: &str| Passphrase::new(text.into()).unwrap();
        let encryptor = Encryptor::Passphrase { passphrase: word("right"), work_factor: 4 };
        let bytes = encryptor.encrypt(b"plain").unwrap();
        assert_eq!(open(&bytes, &Identities::from_passphrase(word("right"))).unwrap(), b"plain");
        for wrong in [Identities::from_passphrase(word("wrong")), pair().0] {
            assert!(matches!(open(&bytes, &wrong), Err(EncryptionError::WrongKey)));
        }
    }

    #[test]
    fn excessive_work_and_endless_headers_are_refused() {
        let word = Passphrase::new("x".into()).unwrap();
        let encryptor = Encryptor::Passphrase { passphrase: word.clone(), work_factor: 4 };
        let text = encryptor.encrypt(b"").unwrap();
        let at = text.windows(3).position(|w| w == b" 4\n").unwrap();
        let costly = [&text[..at], b" 40", &text[at + 2..]].concat();
        let identities = Identities::from_passphrase(word);
        assert!(matches!(
            open(&costly, &identities),
            Err(EncryptionError::ExcessiveWork { required: 40 })
        ));
        let endless = b"age-encryption.org/v1\n".chain(io::repeat(b'-'));
        assert!(matches!(decrypt(endless, &identities), Err(EncryptionError::Damaged)));
        let many = b"age-encryption.org/v1\n-> X25519 ".chain(io::repeat(b'a'));
        assert!(matches!(decrypt(many, &identities), Err(EncryptionError::Damaged)));
        assert!(matches!(open(b"", &identities), Err(EncryptionError::Damaged)));
    }

    #[test]
    fn identity_files_are_read_and_never_shown() {
        use age::secrecy::ExposeSecret as _;
        let identity = age::x25519::Identity::generate();
        let secret = identity.to_string();
        let text = format!("# created: now\n# public key: age1…\n\n{}\n", secret.expose_secret());
        let read = Identities::from_text(&text).unwrap();
        let bytes =
            Encryptor::Recipients(vec![Recipient(identity.to_public())]).encrypt(b"x").unwrap();
        assert_eq!(open(&bytes, &read).unwrap(), b"x");
        assert_eq!(format!("{read:?}"), "Identities(1 keys)");

        let broken = text.replacen("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-2", 1);
        let error = Identities::from_text(&broken).unwrap_err();
        assert!(matches!(error, EncryptionError::InvalidIdentity { line: 4 }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("SECRET-KEY-2"));
        assert!(matches!(Identities::from_text("# x\n"), Err(EncryptionError::NoIdentity)));
        let word = Passphrase::new("hunter2".into()).unwrap();
        let choice = EncryptionChoice::Passphrase { passphrase: word.clone(), work_factor: 18 };
        for shown in [
            format!("{word:?}"),
            format!("{choice:?}"),
            format!("{:?}", Encryptor::new(&choice).unwrap()),
            format!("{:?}", Identities::from_passphrase(word)),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn choices_that_cannot_work_are_refused() {
        let word = Passphrase::new("x".into()).unwrap();
        for work_factor in [0, 21, 255] {
            let choice = EncryptionChoice::Passphrase { passphrase: word.clone(), work_factor };
            assert!(matches!(Encryptor::new(&choice), Err(EncryptionError::WorkFactor)));
        }
        let none = EncryptionChoice::Recipients(Vec::new());
        assert!(matches!(Encryptor::new(&none), Err(EncryptionError::NoRecipient)));
        Passphrase::new(String::new()).unwrap_err();
        let texts = [pair().1.to_string(), "age1nonsense".to_owned()];
        assert!(matches!(
            parse_recipients(&texts),
            Err(EncryptionError::InvalidRecipient { number: 2 })
        ));
        assert_eq!(parse_recipients(&texts[..1]).unwrap()[0].to_string(), texts[0]);
    }
}
