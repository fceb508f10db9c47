//! The rights that a node needs to back up, and no more, as texts to paste into
//! the store's settings.

use serde_json::{Value, json};

use super::S3Config;
use super::config::Endpoint;
use crate::store::{InvalidKey, Key};

/// Whose policy language it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// AWS, which can demand `If-None-Match` and so forbid overwriting.
    Aws,
    /// MinIO and others that refuse condition keys they do not know.
    Plain,
}

impl Dialect {
    /// That of the store that `config` names: without an endpoint it is AWS.
    pub fn of(config: &S3Config) -> Self {
        let given = config.endpoint_url.as_deref().and_then(|url| Endpoint::parse(url).ok());
        let is_aws = |host: &str| {
            ["amazonaws.com", "amazonaws.com.cn"].iter().any(|domain| {
                host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        };
        match given {
            Some(endpoint) if !is_aws(&endpoint.host) => Self::Plain,
            _ => Self::Aws,
        }
    }
}

/// The policy for who backs up `cluster`: new objects under the cluster's folder,
/// reading and listing there, nothing deleted, no tombstones and no receipts, and
/// where the dialect can say it, nothing overwritten.
pub fn writer(config: &S3Config, cluster: &str, dialect: Dialect) -> Result<String, InvalidKey> {
    let folder = Key::new(format!("clusters/{cluster}"))?;
    if cluster.contains('/') {
        let why = "a cluster's name has no '/'";
        return Err(InvalidKey { text: cluster.to_owned(), why });
    }
    let bucket = format!("arn:aws:s3:::{}", config.bucket);
    let key = |key: &str| match config.prefix.as_str() {
        "" => key.to_owned(),
        prefix => format!("{prefix}/{key}"),
    };
    let arn = |name: &str| format!("{bucket}/{}", key(name));
    let all = arn(&format!("{folder}/*"));
    let mut statements = vec![
        json!({
            "Sid": "Read",
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [arn("vault.json"), arn("RESTORE.txt"), &all],
        }),
        json!({
            "Sid": "List",
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [bucket],
            "Condition": {"StringLike": {
                "s3:prefix": [key("vault.json"), key("RESTORE.txt"), key(&format!("{folder}/*"))],
            }},
        }),
        json!({
            "Sid": "ListUploads",
            "Effect": "Allow",
            "Action": ["s3:ListBucketMultipartUploads"],
            "Resource": [bucket],
        }),
        json!({
            "Sid": "Write",
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
            "Resource": [&all],
        }),
        json!({
            "Sid": "NoTombstonesNoReceipts",
            "Effect": "Deny",
            "Action": ["s3:PutObject"],
            "Resource": [
                arn(&format!("{folder}/*/tombstones/*")),
                arn(&format!("{folder}/*/receipts/*")),
            ],
        }),
        json!({
            "Sid": "NoDelete",
            "Effect": "Deny",
            "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
            "Resource": [format!("{bucket}/*")],
        }),
    ];
    if dialect == Dialect::Aws {
        // The requests of a multipart upload before its last one cannot carry the
        // header and create nothing.
        statements.push(json!({
            "Sid": "NoOverwrite",
            "Effect": "Deny",
            "Action": ["s3:PutObject"],
            "Resource": [&all],
            "Condition": {
                "Null": {"s3:if-none-match": "true"},
                "Bool": {"s3:ObjectCreationOperation": "true"},
            },
        }));
    }
    Ok(pretty(&json!({"Version": "2012-10-17", "Statement": statements})))
}

/// The bucket's lifecycle rule that ends abandoned multipart uploads, for where
/// nobody runs a sweep.
pub fn lifecycle(config: &S3Config) -> String {
    let prefix = match config.prefix.as_str() {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    pretty(&json!({"Rules": [{
        "ID": "etcdvault-abandoned-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3},
    }]}))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> S3Config {
        S3Config::from_url(url).unwrap()
    }

    #[test]
    fn a_writer_gets_its_cluster_and_nothing_else() {
        let text = writer(&config("s3://backups/etcd"), "prod", Dialect::Aws).unwrap();
        let policy: Value = serde_json::from_str(&text).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        let by_sid = |sid: &str| statements.iter().find(|s| s["Sid"] == sid).unwrap();
        assert_eq!(
            by_sid("Write")["Resource"],
            json!(["arn:aws:s3:::backups/etcd/clusters/prod/*"])
        );
        assert_eq!(by_sid("NoOverwrite")["Condition"]["Null"]["s3:if-none-match"], "true");
        assert_eq!(by_sid("NoDelete")["Effect"], "Deny");
        let allowed = statements.iter().filter(|s| s["Effect"] == "Allow");
        assert!(allowed.into_iter().all(|s| !s["Action"].to_string().contains("Delete")));

        let plain = writer(&config("s3://backups"), "prod", Dialect::Plain).unwrap();
        assert!(!plain.contains("if-none-match"));
        assert!(plain.contains("arn:aws:s3:::backups/clusters/prod/*"), "{plain}");
    }

    #[test]
    fn the_guide_shows_what_is_printed() {
        let guide = include_str!("../../../../docs/s3.md");
        let shown: Vec<Value> = guide
            .split("```json\n")
            .skip(1)
            .map(|rest| serde_json::from_str(rest.split("```").next().unwrap()).unwrap())
            .collect();
        let config = config("s3://backups/etcd");
        let printed = [lifecycle(&config), writer(&config, "prod", Dialect::Aws).unwrap()];
        assert_eq!(shown, printed.map(|text| serde_json::from_str::<Value>(&text).unwrap()));
        for (option, _) in super::super::OPTIONS {
            assert!(guide.contains(&format!("| `{option}` |")), "{option} is not in the guide");
        }
    }

    #[test]
    fn only_aws_is_told_conditions_of_aws() {
        let dialect = |url: &str| {
            let mut config = config("s3://backups");
            if !url.is_empty() {
                config.set("endpoint-url", url).unwrap();
            }
            Dialect::of(&config)
        };
        for url in [
            "",
            "https://s3.eu-central-1.amazonaws.com",
            "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
            "https://s3.cn-north-1.amazonaws.com.cn",
        ] {
            assert_eq!(dialect(url), Dialect::Aws, "{url}");
        }
        for url in [
            "https://minio.example:9000",
            "http://127.0.0.1:9000",
            "https://amazonaws.com.example",
            "https://notamazonaws.com",
        ] {
            assert_eq!(dialect(url), Dialect::Plain, "{url}");
        }
    }

    #[test]
    fn a_cluster_name_cannot_widen_the_policy() {
        for name in ["*", "a/b", "", "../x", "a*", "a?", "a\"b"] {
            assert!(writer(&config("s3://backups"), name, Dialect::Aws).is_err(), "{name}");
        }
    }

    #[test]
    fn the_lifecycle_rule_is_for_our_prefix() {
        let rule: Value = serde_json::from_str(&lifecycle(&config("s3://backups/etcd"))).unwrap();
        assert_eq!(rule["Rules"][0]["Filter"]["Prefix"], "etcd/");
        assert_eq!(rule["Rules"][0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"], 3);
    }
}
