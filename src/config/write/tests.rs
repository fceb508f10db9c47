//! What is written is read back as it was, whatever is in it.

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use vault::layout::ClusterName;

use super::*;
use crate::config::read::parse;

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,12}"
}

/// Any text that can stand in a value: quotes, backslashes, hashes and all of Unicode.
fn text() -> impl Strategy<Value = String> {
    "[^\\p{Cc}~$]{1,20}".prop_filter("not blank", |text| !text.trim().is_empty())
}

fn path() -> impl Strategy<Value = std::path::PathBuf> {
    text().prop_map(|text| std::path::PathBuf::from(format!("/{text}")))
}

fn secret() -> impl Strategy<Value = SecretSource> {
    prop_oneof![
        path().prop_map(SecretSource::File),
        "[A-Z_]{1,10}".prop_map(SecretSource::Env),
        "[a-z][a-z-]{0,10}".prop_map(SecretSource::Credential),
        text().prop_map(SecretSource::Command),
    ]
}

fn members() -> impl Strategy<Value = ClusterConfig> {
    let nothing = Just(ClusterConfig::default());
    let endpoints =
        proptest::collection::btree_set("(https?://)?[a-z]{1,8}(:[1-9][0-9]{2})?", 1..4).prop_map(
            |endpoints| ClusterConfig {
                endpoints: endpoints.into_iter().collect(),
                ..Default::default()
            },
        );
    let srv = ("[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", of("[a-z]{1,8}"), any::<bool>()).prop_map(
        |(domain, name, nameserver)| ClusterConfig {
            discovery_srv: Some(domain),
            discovery_srv_name: name,
            discovery_srv_nameserver: nameserver.then(|| "[::1]:5353".parse().unwrap()),
            ..Default::default()
        },
    );
    prop_oneof![nothing, endpoints, srv]
}

fn cluster() -> impl Strategy<Value = ClusterConfig> {
    let files = (of(path()), of((path(), path())), of(path()));
    let user = of(("[a-z]{1,8}", of(secret())));
    let timeouts = (of("[1-9]s"), of("[1-9]m[1-9]s"));
    let state = (proptest::collection::btree_set("/[a-z/\"#]{1,10}", 0..3), of(any::<bool>()));
    (members(), files, user, timeouts, state, of(text())).prop_map(
        |(members, (cacert, pair, kubeconfig), user, (dial, command), (paths, allow), owner)| {
            let (user, password) = user.unzip();
            let (cert, key) = pair.unzip();
            ClusterConfig {
                cacert,
                cert,
                key,
                user,
                password: password.flatten(),
                dial_timeout: dial,
                command_timeout: command,
                kubeconfig,
                state_paths: paths.into_iter().map(Into::into).collect(),
                allow_unencrypted_state: allow,
                owner,
                ..members
            }
        },
    )
}

fn node() -> impl Strategy<Value = NodeConfig> {
    let role = prop_oneof![Just(Role::Etcd), Just(Role::Apiserver), Just(Role::Client)];
    let roles = proptest::collection::btree_set(role, 0..3);
    (of("[a-z0-9.:]{1,12}"), of("[a-z]{1,5}@[a-z]{1,5}"), of(any::<bool>()), of(path()), roles)
        .prop_map(|(address, ssh, sudo, agent, roles)| NodeConfig {
            address,
            ssh,
            sudo,
            agent,
            roles: roles.into_iter().collect(),
        })
}

fn vault() -> impl Strategy<Value = VaultConfig> {
    let s3 = of((of("[a-z]{2}-[a-z]{4}-[1-9]"), of("[1-9]")));
    let key = of((any::<bool>(), secret()));
    let numbers = (of(1..=19), of(1..=64_u16), of(any::<u32>()));
    (path(), s3, any::<bool>(), key, numbers, of(path())).prop_map(
        |(path, s3, recipients, key, (level, workers, limit), spool_dir)| {
            let location = match s3 {
                Some(_) => "s3://bucket/prefix".to_owned(),
                None => path.display().to_string().replace("://", ""),
            };
            let (region, attempts) = s3.unwrap_or_default();
            let options = [("region", region), ("attempts", attempts)];
            let (identity, passphrase) = match key {
                Some((true, source)) => (Some(source), None),
                Some((false, source)) => (None, Some(source)),
                None => (None, None),
            };
            VaultConfig {
                location,
                s3: options.into_iter().filter_map(|(name, v)| Some((name, v?))).collect(),
                recipients: if recipients { vec![RECIPIENT.to_owned()] } else { Vec::new() },
                identity,
                passphrase,
                compression_level: level,
                workers,
                spool_dir,
                spool_limit: limit,
            }
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    let clusters = btree_map(name(), cluster(), 0..3);
    (clusters, btree_map(name(), node(), 0..3), btree_map(name(), vault(), 0..3)).prop_map(
        |(clusters, nodes, vaults)| {
            let clusters = clusters
                .into_iter()
                .map(|(name, mut cluster)| {
                    cluster.vault = vaults.keys().next().cloned();
                    cluster.nodes = nodes.keys().cloned().collect();
                    (ClusterName::new(name).unwrap(), cluster)
                })
                .collect();
            Config { clusters, nodes, vaults }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read_back(
        config in config(),
        remarks in vec((any::<prop::sample::Index>(), any::<String>()), 0..6),
    ) {
        // A comment may hold anything, line ends and brackets too, wherever it stands.
        let mut comments = Comments::default();
        comments.add("", "", "The head\n[cluster.other]\nendpoints = 1");
        let keys = ["", "endpoints", "location", "user", "vault"];
        for (index, text) in &remarks {
            for section in config.clusters.keys() {
                comments.add(format!("cluster.{section}"), *index.get(&keys), text);
            }
            for section in config.vaults.keys() {
                comments.add(format!("vault.{section}"), *index.get(&keys), text);
            }
        }
        let text = write(&config, &comments);
        match parse(&text) {
            Ok(read) => prop_assert_eq!(&read.config, &config, "{}", text),
            Err(problems) => prop_assert!(false, "{problems:?}\n{text}"),
        }
        prop_assert_eq!(write(&config, &comments), text, "the same twice");
    }
}

#[test]
fn a_file_reads_well() {
    let mut config = Config::default();
    let cluster = ClusterConfig {
        endpoints: vec!["https://10.0.0.11:2379".into(), "https://10.0.0.12:2379".into()],
        cacert: Some("/etc/kubernetes/pki/etcd/ca.crt".into()),
        allow_unencrypted_state: Some(false),
        ..Default::default()
    };
    config.clusters.insert(ClusterName::new("prod").unwrap(), cluster);
    let mut comments = Comments::default();
    comments.add("", "", "Written by etcdvault discover.");
    comments.add("cluster.prod", "", "3 members, etcd 3.6.16");
    comments.add("cluster.prod", "cacert", "expires 2027-01-01");
    assert_eq!(
        write(&config, &comments),
        "# Written by etcdvault discover.\n\n\
         # 3 members, etcd 3.6.16\n\
         [cluster.prod]\n\
         endpoints = [\n    \"https://10.0.0.11:2379\",\n    \"https://10.0.0.12:2379\",\n]\n\
         # expires 2027-01-01\n\
         cacert = \"/etc/kubernetes/pki/etcd/ca.crt\"\n\
         allow-unencrypted-state = false\n"
    );
}
