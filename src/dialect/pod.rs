//! Manifests of static pods, as kubeadm writes them for etcd and
//! kube-apiserver and as they are after people changed them.

use super::invocation::{Invocation, Variable};
use super::text::{EditError, Files, Form, ParseError, Traced};
use super::yaml::{Kind, Node, Step, Yaml};

/// A manifest of a pod.
#[derive(Debug, Clone)]
pub struct Manifest {
    name: String,
    yaml: Yaml,
    document: usize,
}

/// A container of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    position: usize,
}

/// A path of the node that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path in the container.
    pub container: String,
    /// The path on the node.
    pub node: String,
    /// Whether it is only read.
    pub read_only: bool,
}

impl Manifest {
    /// Reads a file: YAML or JSON, one pod. `name` is what origins call it.
    ///
    /// # Errors
    /// It is no YAML, or holds no pod or several.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        let yaml = Yaml::parse(text)?;
        let mut pods = yaml
            .documents()
            .iter()
            .enumerate()
            .filter(|(_, document)| document.get("kind").and_then(Node::text) == Some("Pod"));
        match (pods.next(), pods.next()) {
            (Some((document, _)), None) => {
                Ok(Self { name: name.to_owned(), document, yaml: yaml.clone() })
            }
            (None, _) => Err(ParseError::at(text, 0, "no pod")),
            (Some(_), Some((_, second))) => {
                Err(ParseError::at(text, second.span.start, "a second pod"))
            }
        }
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        self.yaml.text()
    }

    /// The tree, for what this type does not name.
    pub fn root(&self) -> &Node {
        &self.yaml.documents()[self.document]
    }

    /// The pod's name.
    pub fn pod(&self) -> Option<&str> {
        self.root().at(&["metadata", "name"]).and_then(Node::text)
    }

    /// An annotation, as `kubeadm.kubernetes.io/etcd.advertise-client-urls`.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.root().at(&["metadata", "annotations", name]).and_then(Node::text)
    }

    fn container_nodes(&self) -> &[Node] {
        self.root().at(&["spec", "containers"]).map(Node::items).unwrap_or_default()
    }

    /// The containers.
    pub fn containers(&self) -> Vec<Container> {
        let text = |node: &Node, key| node.get(key).and_then(Node::text).unwrap_or("").to_owned();
        let nodes = self.container_nodes().iter().enumerate();
        nodes
            .map(|(position, node)| Container {
                name: text(node, "name"),
                image: text(node, "image"),
                position,
            })
            .collect()
    }

    /// The container that runs a program: by the command, else by its name.
    pub fn container_of(&self, program: &str) -> Option<Container> {
        let containers = self.containers();
        let runs = |container: &&Container| {
            self.invocation(container).is_ok_and(|found| found.program_name() == program)
        };
        let named = |container: &&Container| container.name == program;
        containers.iter().find(runs).or_else(|| containers.iter().find(named)).cloned()
    }

    /// What a container runs: `command` and `args`, with `env`. Variables
    /// whose value comes from elsewhere (`valueFrom`) are left out.
    ///
    /// # Errors
    /// `sh -c` with more than a simple command.
    pub fn invocation(&self, container: &Container) -> Result<Invocation, ParseError> {
        let mut files = Files::default();
        let file = files.add(&self.name, self.yaml.text());
        let empty = Node { kind: Kind::Alias, span: 0..0, decorated: false };
        let node = self.container_nodes().get(container.position).unwrap_or(&empty);
        let words = |key: &str| -> Vec<Traced> {
            let items = node.get(key).map(Node::items).unwrap_or_default();
            items.iter().map(|item| self.traced(item, file)).collect()
        };
        let mut command = words("command");
        command.extend(words("args"));
        let mut command = command.into_iter();
        let mut variables = Vec::new();
        for entry in node.get("env").map(Node::items).unwrap_or_default() {
            let (Some(name), Some(value)) =
                (entry.get("name").and_then(Node::text), entry.get("value"))
            else {
                continue;
            };
            let traced = self.traced(value, file);
            let origin = files.origin(&traced, None, Form::Environment);
            variables.retain(|known: &Variable| known.name != name);
            variables.push(Variable {
                name: name.to_owned(),
                value: traced.text.clone(),
                origin,
                traced,
            });
        }
        let used = Some((file, node.span.start));
        let program = command.next().unwrap_or_else(|| Traced::nowhere(&container.name));
        Invocation::new(files, program, command.collect(), variables, used)
            .with_references()
            .through_shell()
            .map_err(|reason| ParseError::at(self.yaml.text(), node.span.start, reason))
    }

    /// A scalar with the place of its characters, as far as it is written as
    /// it is read.
    fn traced(&self, node: &Node, file: u32) -> Traced {
        let value = node.text().unwrap_or("");
        let raw = self.yaml.text().get(node.span.clone()).unwrap_or("");
        match raw.find(value) {
            Some(at) if !value.is_empty() => Traced::verbatim(value, file, node.span.start + at),
            _ => Traced::nowhere(value),
        }
    }

    /// The paths of the node that a container sees.
    pub fn mounts(&self, container: &Container) -> Vec<Mount> {
        let volumes = self.root().at(&["spec", "volumes"]).map(Node::items).unwrap_or_default();
        let node = self.container_nodes().get(container.position);
        let mounts = node.and_then(|node| node.get("volumeMounts")).map(Node::items);
        let text =
            |node: &Node, keys: &[&str]| node.at(keys).and_then(Node::text).map(str::to_owned);
        let found = mounts.unwrap_or_default().iter().filter_map(|mount| {
            let name = text(mount, &["name"])?;
            let volume =
                volumes.iter().find(|volume| text(volume, &["name"]).as_ref() == Some(&name))?;
            Some(Mount {
                container: text(mount, &["mountPath"])?,
                node: text(volume, &["hostPath", "path"])?,
                read_only: text(mount, &["readOnly"]).as_deref() == Some("true"),
            })
        });
        found.collect()
    }

    /// The path on the node of a path in a container; none if it is not of the
    /// node.
    pub fn node_path(&self, container: &Container, path: &str) -> Option<String> {
        let mut mounts = self.mounts(container);
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.container.len()));
        mounts.iter().find_map(|mount| {
            let below = path.strip_prefix(mount.container.trim_end_matches('/'))?;
            let fits = below.is_empty() || below.starts_with('/');
            fits.then(|| format!("{}{below}", mount.node.trim_end_matches('/')))
        })
    }

    /// Where a container's flag stands: the list, and the item or items.
    fn find(&self, container: &Container, flag: &str) -> Option<(Vec<Step>, usize, bool)> {
        let node = self.container_nodes().get(container.position)?;
        let mut found = None;
        for key in ["command", "args"] {
            for (item, node) in
                node.get(key).map(Node::items).unwrap_or_default().iter().enumerate()
            {
                let text = node.text().unwrap_or("");
                let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
                let rest = name.and_then(|name| name.strip_prefix(flag));
                match rest {
                    Some("") => found = Some((key, item, false)),
                    Some(rest) if rest.starts_with('=') => found = Some((key, item, true)),
                    _ => {}
                }
            }
        }
        let (key, item, joined) = found?;
        Some((self.list(container, key), item, joined))
    }

    fn list(&self, container: &Container, key: &str) -> Vec<Step> {
        vec!["spec".into(), "containers".into(), container.position.into(), key.into()]
    }

    /// The text with a flag of a container changed where it stands, or added
    /// at the end of the list that holds the flags.
    ///
    /// # Errors
    /// The value of the flag is another item of the list; an anchor or alias.
    pub fn set_flag(
        &self,
        container: &Container,
        flag: &str,
        value: &str,
    ) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(format!("--{flag}"), reason);
        self.guard(container, flag)?;
        let written = format!("--{flag}={value}");
        match self.find(container, flag) {
            Some((mut path, item, joined)) => {
                let items = self.container_nodes()[container.position].get(path_key(&path));
                let items = items.map(Node::items).unwrap_or_default();
                let text = items.get(item).and_then(Node::text).unwrap_or("");
                if text.contains("$(") {
                    return Err(refused("its value comes from a variable"));
                }
                let lone = items
                    .get(item + 1)
                    .and_then(Node::text)
                    .is_some_and(|next| !next.starts_with('-'));
                if !joined && lone && !super::settings::is_switch(flag) {
                    if value.starts_with('-') {
                        return Err(refused(
                            "as an item of its own the value would be taken for a flag",
                        ));
                    }
                    path.push(Step::Item(item + 1));
                    return self.yaml.set(self.document, &path, value, true);
                }
                let dashes = if text.starts_with("--") { "" } else { "-" };
                path.push(Step::Item(item));
                self.yaml.set(self.document, &path, &written[dashes.len()..], true)
            }
            None => {
                let node = &self.container_nodes()[container.position];
                let count = |key| node.get(key).map_or(0, |list| list.items().len());
                let key = if count("args") > 0 { "args" } else { "command" };
                self.yaml.add_item(self.document, &self.list(container, key), count(key), &written)
            }
        }
    }

    /// The text without a flag of a container, however often it stands there.
    ///
    /// # Errors
    /// It is not there; or as [`set_flag`](Self::set_flag).
    pub fn remove_flag(&self, container: &Container, flag: &str) -> Result<String, EditError> {
        let mut text = self.remove_last(container, flag)?;
        loop {
            match Self::parse(&self.name, &text)?.remove_last(container, flag) {
                Ok(next) => text = next,
                Err(EditError::Absent(_)) => return Ok(text),
                Err(error) => return Err(error),
            }
        }
    }

    fn remove_last(&self, container: &Container, flag: &str) -> Result<String, EditError> {
        self.guard(container, flag)?;
        let (mut path, item, joined) =
            self.find(container, flag).ok_or_else(|| EditError::Absent(format!("--{flag}")))?;
        if !joined {
            let items = self.container_nodes()[container.position].get(path_key(&path));
            let next = items.and_then(|items| items.items().get(item + 1)).and_then(Node::text);
            if next.is_some_and(|next| !next.starts_with('-')) {
                return Err(EditError::refused(
                    format!("--{flag}"),
                    "its value may be the next item of the list",
                ));
            }
        }
        path.push(Step::Item(item));
        self.yaml.remove(self.document, &path)
    }

    fn guard(&self, container: &Container, flag: &str) -> Result<(), EditError> {
        let refused = |reason: &str| Err(EditError::refused(format!("--{flag}"), reason));
        let Some(node) = self.container_nodes().get(container.position) else {
            return refused("the container is not in this manifest");
        };
        let shell = ["command", "args"].iter().any(|key| {
            node.get(key)
                .is_some_and(|list| list.items().iter().any(|item| item.text() == Some("-c")))
        });
        if shell { refused("the command runs through a shell") } else { Ok(()) }
    }

    /// The text with an annotation set.
    ///
    /// # Errors
    /// An anchor or alias, or a pod without annotations.
    pub fn set_annotation(&self, name: &str, value: &str) -> Result<String, EditError> {
        let parent = ["metadata".into(), "annotations".into()];
        let path = [&parent[..], &[name.into()]].concat();
        match self.yaml.set(self.document, &path, value, true) {
            Err(EditError::Absent(_)) => {
                self.yaml.add_entry(self.document, &parent, name, value, true)
            }
            done => done,
        }
    }

    /// The text with a container's image set.
    ///
    /// # Errors
    /// The container names none, or an anchor or alias.
    pub fn set_image(&self, container: &Container, image: &str) -> Result<String, EditError> {
        let path = self.list(container, "image");
        self.yaml.set(self.document, &path, image, true)
    }
}

fn path_key(path: &[Step]) -> &str {
    match path.last() {
        Some(Step::Key(key)) => key,
        _ => "",
    }
}
