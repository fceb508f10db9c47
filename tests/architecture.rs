//! Holds the code against `docs/architecture.md`: every path from one module
//! to another is an arrow drawn there, every module is drawn, only `cli`
//! prints, only `cli` and `config` read the environment, the crate `vault`
//! knows no etcd, and no module is a `mod.rs`.
//!
//! Paths are read from the syntax tree (`use` trees, types, expressions,
//! attributes) and from the tokens inside macros. What a macro builds from
//! pieces is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The workspace's crate for backups; a path of it is an arrow like a module's.
const VAULT: &str = "vault";

/// What `main.rs` calls the library.
const LIBRARY: &str = "etcdvault";

const PRINTING_MACROS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

#[test]
fn the_code_has_no_arrow_that_is_not_drawn() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let drawing = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let drawn = Drawing::parse(&drawing).unwrap();
    let sources = read_sources(&root.join("src"));
    assert!(sources.len() > 10, "only {} files under src", sources.len());
    let mut faults = check(&drawn, &sources);
    faults.extend(check_vault(&read_sources(&root.join("vault/src"))));
    let manifest = fs::read_to_string(root.join("vault/Cargo.toml")).unwrap();
    faults.extend(check_vault_manifest(&manifest));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The arrows of the document: from a module to module paths.
#[derive(Debug)]
struct Drawing(BTreeMap<String, Vec<Vec<String>>>);

impl Drawing {
    fn parse(document: &str) -> Result<Self, String> {
        let mut lines = document.lines().skip_while(|line| line.trim() != "```arrows");
        lines.next().ok_or("the document has no ```arrows block")?;
        let mut arrows = BTreeMap::new();
        for line in lines.by_ref() {
            if line.trim() == "```" {
                return Ok(Self(arrows));
            }
            let (from, to) =
                line.split_once("->").ok_or_else(|| format!("no arrow in the line {line:?}"))?;
            let to = to.split(',').map(str::trim).filter(|to| !to.is_empty());
            let to = to.map(|to| to.split("::").map(str::to_owned).collect()).collect();
            if arrows.insert(from.trim().to_owned(), to).is_some() {
                return Err(format!("{} is drawn twice", from.trim()));
            }
        }
        Err("the ```arrows block does not end".to_owned())
    }

    /// Whether `from` may name `path`.
    fn allows(&self, from: &str, path: &[String]) -> bool {
        let Some(targets) = self.0.get(from) else { return false };
        targets.iter().any(|target| path.starts_with(target))
    }
}

/// A source file: its path below `src`, its module path and its text.
struct Source {
    file: String,
    module: Vec<String>,
    text: String,
}

impl Source {
    fn new(file: &str, text: &str) -> Self {
        let stem = file.strip_suffix(".rs").unwrap_or(file);
        let module = match stem {
            "lib" => Vec::new(),
            stem => stem.split('/').map(str::to_owned).collect(),
        };
        Self { file: file.to_owned(), module, text: text.to_owned() }
    }
}

fn read_sources(directory: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    list(directory, &mut files);
    files.sort();
    let read = |path: &PathBuf| {
        let file = path.strip_prefix(directory).unwrap().to_str().unwrap();
        Source::new(file, &fs::read_to_string(path).unwrap())
    };
    files.iter().map(read).collect()
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every fault of the package's own sources.
fn check(drawn: &Drawing, sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let modules: BTreeSet<String> =
        sources.iter().filter_map(|source| source.module.first().cloned()).collect();
    for module in &modules {
        if !drawn.0.contains_key(module) {
            faults.push(format!("the module {module} is not drawn"));
        }
    }
    let ends = drawn.0.values().flatten().filter_map(|path| path.first());
    for end in drawn.0.keys().chain(ends).collect::<BTreeSet<_>>() {
        if !modules.contains(end) && end != VAULT {
            faults.push(format!("{end} is drawn and there is no such module"));
        }
    }
    for source in sources {
        faults.extend(check_source(drawn, &modules, source));
    }
    faults
}

fn check_source(drawn: &Drawing, modules: &BTreeSet<String>, source: &Source) -> Vec<String> {
    let file = &source.file;
    let mut faults = Vec::new();
    if file == "mod.rs" || file.ends_with("/mod.rs") {
        faults.push(format!("{file}: modules are foo.rs and foo/, not mod.rs"));
    }
    let found = match Found::parse(source) {
        Ok(found) => found,
        Err(error) => {
            faults.push(format!("{file}: {error}"));
            return faults;
        }
    };
    let home = source.module.first().map_or("lib", String::as_str);
    for path in &found.paths {
        let Some(target) = resolve(path, modules, &found) else { continue };
        let written = path.segments.join("::");
        match target.first() {
            None => faults.push(format!("{file}: {written} takes in the whole crate")),
            Some(first) if first == home => {}
            Some(first) if !modules.contains(first) && first != VAULT => {
                faults.push(format!("{file}: {written} is no module; say where it stands"));
            }
            Some(_) if !drawn.allows(home, &target) => {
                faults.push(format!("{file}: {home} -> {} is not drawn", target.join("::")));
            }
            Some(_) => {}
        }
    }
    if home != "cli" {
        faults.extend(found.printing().map(|what| format!("{file}: {home} prints with {what}")));
    }
    if !["cli", "config"].contains(&home) {
        faults.extend(
            found.environment().map(|what| format!("{file}: {home} reads the environment: {what}")),
        );
    }
    faults.dedup();
    faults
}

/// The faults of the crate `vault`, which must work without knowing etcd.
fn check_vault(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        let file = format!("vault/src/{}", source.file);
        let found = match Found::parse(source) {
            Ok(found) => found,
            Err(error) => {
                faults.push(format!("{file}: {error}"));
                continue;
            }
        };
        if file.ends_with("/mod.rs") {
            faults.push(format!("{file}: modules are foo.rs and foo/, not mod.rs"));
        }
        let named = found.names.iter().filter(|name| name.to_lowercase().contains("etcd"));
        faults.extend(named.map(|name| format!("{file}: the crate vault names etcd: {name}")));
        faults.extend(found.printing().map(|what| format!("{file}: vault prints with {what}")));
        faults.extend(
            found.environment().map(|what| format!("{file}: vault reads the environment: {what}")),
        );
    }
    faults
}

fn check_vault_manifest(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().map(str::trim);
    let keys = lines.filter_map(|line| Some(line.split_once('=')?.0.trim()));
    let etcd = keys.filter(|key| key.contains("etcd"));
    etcd.map(|key| format!("vault/Cargo.toml: the crate vault depends on {key}")).collect()
}

/// A path as it is written, and the module it stands in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Written {
    segments: Vec<String>,
    module: Vec<String>,
}

/// What one file names.
struct Found {
    module: Vec<String>,
    paths: BTreeSet<Written>,
    macros: BTreeSet<String>,
    /// Modules declared and names imported in this file: a bare path that
    /// begins with one of them is not a path of the crate of that name.
    local: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Found {
    fn parse(source: &Source) -> syn::Result<Self> {
        let file = syn::parse_file(&source.text)?;
        let mut found = Self {
            module: source.module.clone(),
            paths: BTreeSet::new(),
            macros: BTreeSet::new(),
            local: BTreeSet::new(),
            names: BTreeSet::new(),
        };
        found.visit_file(&file);
        Ok(found)
    }

    fn add(&mut self, segments: Vec<String>) {
        self.paths.insert(Written { segments, module: self.module.clone() });
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(unraw(&path.ident));
                self.use_tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Name(name) => {
                let name = unraw(&name.ident);
                let path = if name == "self" { before.clone() } else { joined(before, &name) };
                self.import(path.last().cloned().unwrap_or_default(), path);
            }
            syn::UseTree::Rename(rename) => {
                let path = joined(before, &unraw(&rename.ident));
                self.import(unraw(&rename.rename), path);
            }
            syn::UseTree::Glob(_) => self.add(joined(before, "*")),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, before);
                }
            }
        }
    }

    fn import(&mut self, name: String, path: Vec<String>) {
        // `use vault::x` makes the name x local, and does not hide the crate.
        if path.first() != Some(&name) {
            self.local.insert(name);
        }
        self.add(path);
    }

    /// Paths and macro calls in tokens that have no syntax tree.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(_) => at = self.token_path(&tokens, at),
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    /// The path that begins with the identifier at `at`; returns where it ends.
    fn token_path(&mut self, tokens: &[TokenTree], mut at: usize) -> usize {
        let bare = at == 0 || !is_punct(&tokens[at - 1], '.');
        let mut segments = Vec::new();
        while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
            self.names.insert(unraw(ident));
            segments.push(unraw(ident));
            at += 1;
            let colons = tokens.get(at..at + 2).is_some_and(|two| two.iter().all(is_colon));
            if !colons {
                if tokens.get(at).is_some_and(|token| is_punct(token, '!')) {
                    self.macros.extend(segments.last().cloned());
                }
                break;
            }
            at += 2;
            match tokens.get(at) {
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.token_group(group.stream(), &segments);
                    return at + 1;
                }
                Some(token) if is_punct(token, '*') => {
                    segments.push("*".to_owned());
                    break;
                }
                _ => {}
            }
        }
        if bare && segments.len() > 1 {
            self.add(segments);
        }
        at
    }

    /// `prefix::{a::b, c}` inside a macro.
    fn token_group(&mut self, stream: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        for part in tokens.split(|token| is_punct(token, ',')) {
            let mut segments = prefix.to_vec();
            for token in part {
                match token {
                    TokenTree::Ident(ident) if *ident == "as" => break,
                    TokenTree::Ident(ident) if *ident != "self" => segments.push(unraw(ident)),
                    TokenTree::Group(group) => {
                        self.token_group(group.stream(), &segments);
                        break;
                    }
                    _ => {}
                }
            }
            self.add(segments);
        }
    }

    fn printing(&self) -> impl Iterator<Item = String> {
        let macros = self.macros.iter().filter(|name| PRINTING_MACROS.contains(&name.as_str()));
        let streams = self.paths.iter().filter(|path| {
            let last = path.segments.last().map(String::as_str);
            let io = path.segments.iter().any(|segment| segment == "io");
            io && matches!(last, Some("stdout" | "stderr"))
        });
        macros.map(|name| format!("{name}!")).chain(streams.map(|path| path.segments.join("::")))
    }

    fn environment(&self) -> impl Iterator<Item = String> {
        let readers = ["var", "var_os", "vars", "vars_os", "home_dir"];
        let reads = self.paths.iter().filter(move |path| match path.segments.as_slice() {
            [.., env, reader] => env == "env" && readers.contains(&reader.as_str()),
            _ => false,
        });
        reads.map(|path| path.segments.join("::"))
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.local.insert(unraw(&item.ident));
        self.module.push(unraw(&item.ident));
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &mut Vec::new());
        visit::visit_item_use(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.add(path.segments.iter().map(|segment| unraw(&segment.ident)).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(in crate::x)` narrows who sees an item; it uses nothing.
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.macros.extend(call.path.segments.last().map(|segment| unraw(&segment.ident)));
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
            // `#[serde(with = "crate::types::hex")]`
            for literal in strings(list.tokens.clone()) {
                let segments: Vec<String> = literal.split("::").map(str::to_owned).collect();
                let word = |s: &String| s.chars().all(|c| c.is_alphanumeric() || c == '_');
                if segments.len() > 1 && segments.iter().all(word) {
                    self.add(segments);
                }
            }
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        self.names.insert(unraw(ident));
    }
}

/// What a path names, from the crate's root on; `None` for what is neither
/// this crate's nor `vault`'s.
fn resolve(path: &Written, modules: &BTreeSet<String>, found: &Found) -> Option<Vec<String>> {
    let (first, rest) = path.segments.split_first()?;
    let below = |base: &[String], rest: &[String]| -> Vec<String> {
        let whole = base.iter().chain(rest).cloned();
        whole.take_while(|segment| segment != "*" && segment != "self").collect()
    };
    match first.as_str() {
        "crate" => Some(below(&[], rest)),
        LIBRARY => Some(below(&[], rest)),
        "self" => Some(below(&path.module, rest)),
        "super" => {
            let ups = path.segments.iter().take_while(|segment| *segment == "super").count();
            let kept = path.module.len().saturating_sub(ups);
            Some(below(&path.module[..kept], &path.segments[ups..]))
        }
        // A name that is imported or declared here stands for that import.
        name if found.local.contains(name) && !path.module.is_empty() => None,
        VAULT => Some(below(&[], &path.segments)),
        name if path.module.is_empty() && modules.contains(name) => {
            Some(below(&[], &path.segments))
        }
        _ => None,
    }
}

fn unraw(ident: &proc_macro2::Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map(str::to_owned).unwrap_or(text)
}

fn joined(before: &[String], last: &str) -> Vec<String> {
    before.iter().cloned().chain([last.to_owned()]).collect()
}

fn is_punct(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(found) if found.as_char() == punct)
}

fn is_colon(token: &TokenTree) -> bool {
    is_punct(token, ':')
}

fn strings(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => found.extend(strings(group.stream())),
            TokenTree::Literal(literal) => {
                if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                    found.push(text.value());
                }
            }
            _ => {}
        }
    }
    found
}

mod the_checker {
    use super::*;

    const DRAWN: &str = "text\n```arrows\nmain -> cli\ncli -> etcd\netcd -> types\n\
                         datadir -> vault::durable\ntypes ->\n```\n";

    /// The faults of a small crate in which one file has this text.
    fn faults(file: &str, text: &str) -> Vec<String> {
        let drawn = Drawing::parse(DRAWN).unwrap();
        let all = ["main.rs", "lib.rs", "cli.rs", "etcd.rs", "datadir.rs", "types.rs"];
        let others = all.iter().filter(|other| **other != file).map(|other| (*other, ""));
        let sources: Vec<Source> =
            others.chain([(file, text)]).map(|(file, text)| Source::new(file, text)).collect();
        check(&drawn, &sources)
    }

    #[track_caller]
    fn refused(file: &str, text: &str, part: &str) {
        let found = faults(file, text);
        assert!(found.iter().any(|fault| fault.contains(part)), "{text}: {found:?}");
    }

    #[track_caller]
    fn accepted(file: &str, text: &str) {
        assert_eq!(faults(file, text), Vec::<String>::new(), "{text}");
    }

    #[test]
    fn sees_paths_in_every_place() {
        for text in [
            "use crate::cli::Args;",
            "use crate::{types::Id, cli::Args};",
            "use crate::{types, cli};",
            "use crate::cli as anything;",
            "use super::cli;",
            "use super::cli::*;",
            "mod tests { use super::super::cli::Args; }",
            "mod inner { mod deep { fn f() { super::super::super::cli::run() } } }",
            "fn f() { crate::cli::run() }",
            "fn f(x: crate::cli::Args) {}",
            "fn f() -> Option<Vec<crate::cli::Args>> { None }",
            "impl From<crate::cli::Args> for X {}",
            "const X: u8 = <crate::cli::Args as T>::X;",
            "fn f() { m!(a, crate::cli::run()); }",
            "fn f() { m! { use crate::{types::Id, cli::Args}; } }",
            "fn f() { m![{ (super::cli::run)() }]; }",
            "macro_rules! m { () => { $crate::cli::run() } }",
            "#[serde(with = \"crate::cli::hex\")] struct S;",
            "#[serde(with = \"super::cli::hex\")] struct S;",
            "#[derive(crate::cli::Derive)] struct S;",
            "pub use crate::cli::Args;",
            "use crate::r#cli::Args;",
            "use etcdvault::cli;",
        ] {
            refused("etcd.rs", text, "etcd -> cli");
        }
        refused("etcd/deep/file.rs", "use super::super::super::cli;", "etcd -> cli");
        refused("types.rs", "use crate::etcd::Client;", "types -> etcd");
        refused("main.rs", "fn main() { etcdvault::etcd::run() }", "main -> etcd");
        refused("lib.rs", "pub mod etcd; pub use etcd::Client;", "lib -> etcd");
    }

    #[test]
    fn accepts_what_is_drawn_and_what_stays_inside() {
        accepted("etcd.rs", "use crate::types::Id; fn f(x: crate::types::Id) {}");
        accepted("etcd.rs", "mod client; use self::client::C; use client::D; use crate::etcd::E;");
        accepted("etcd/deep/file.rs", "use super::super::client; use super::x::*;");
        accepted("etcd.rs", "mod tests { use super::*; use std::fmt; }");
        accepted("etcd.rs", "/// See [`crate::cli::Args`].\nfn f() { other::cli::run(); x.cli() }");
        accepted("etcd.rs", "mod cli; fn f() { cli::run(); self::cli::run() }");
        accepted("etcd.rs", "pub(in crate::etcd) fn f() {}");
        accepted("main.rs", "fn main() { etcdvault::cli::run() }");
        accepted("lib.rs", "pub mod cli; pub mod etcd;");
    }

    #[test]
    fn a_drawn_path_allows_itself_and_not_its_parent() {
        accepted("datadir.rs", "use vault::durable::Fs; fn f() { vault::durable::write() }");
        accepted("datadir.rs", "use vault::{durable, durable::Fs};");
        refused("datadir.rs", "use vault::store::Store;", "datadir -> vault::store");
        refused("datadir.rs", "use vault::{durable, store};", "datadir -> vault::store");
        refused("datadir.rs", "use vault::*;", "datadir -> vault ");
        refused("datadir.rs", "use vault as v;", "datadir -> vault ");
        refused("datadir.rs", "fn f() { ::vault::store::open() }", "datadir -> vault::store");
        refused("datadir.rs", "fn f() { m!(vault::store::open()) }", "datadir -> vault::store");
        refused("etcd.rs", "use vault::durable;", "etcd -> vault::durable");
        accepted("etcd.rs", "mod vault; fn f() { vault::open() }");
    }

    #[test]
    fn refuses_paths_that_hide_where_they_lead() {
        refused("etcd.rs", "use crate::*;", "takes in the whole crate");
        refused("etcd.rs", "use super::*;", "takes in the whole crate");
        refused("etcd.rs", "use crate::Error;", "is no module");
    }

    #[test]
    fn holds_the_drawing_against_the_modules() {
        refused("extra.rs", "", "the module extra is not drawn");
        refused("extra/part.rs", "", "the module extra is not drawn");
        let drawn = Drawing::parse("```arrows\nmain -> gone\n```").unwrap();
        let found = check(&drawn, &[Source::new("main.rs", "")]);
        assert_eq!(found, ["gone is drawn and there is no such module"]);
        assert!(Drawing::parse("no block").is_err());
        assert!(Drawing::parse("```arrows\na -> b").is_err());
        assert!(Drawing::parse("```arrows\na b\n```").is_err());
        assert!(Drawing::parse("```arrows\na -> b\na -> c\n```").is_err());
    }

    #[test]
    fn only_cli_prints_and_no_module_is_a_mod_rs() {
        for text in [
            "fn f() { println!() }",
            "fn f() { m!(eprintln!()) }",
            "fn f() { std::dbg!(1); }",
            "use std::io; fn f() { io::stdout(); }",
            "use std::io::stderr;",
        ] {
            refused("etcd.rs", text, "etcd prints with");
            accepted("cli.rs", text);
        }
        refused("etcd.rs", "fn f() { std::env::var(\"HOME\"); }", "reads the environment");
        refused("etcd/mod.rs", "", "not mod.rs");
        refused("etcd.rs", "fn f( {", "etcd.rs: cannot parse");
        refused("etcd.rs", "fn f() -> {}", "etcd.rs: expected");
    }

    #[test]
    fn the_crate_vault_knows_no_etcd() {
        let faults = |text| check_vault(&[Source::new("store.rs", text)]);
        for text in [
            "use etcd_client::Client;",
            "struct EtcdThing;",
            "fn f() { let etcd_version = 1; }",
            "fn f() { m!(etcd::x) }",
        ] {
            assert_eq!(faults(text).len(), 1, "{text}");
        }
        assert_eq!(faults("fn f() { g(\"made by etcdvault\") }"), Vec::<String>::new());
        assert_eq!(faults("fn f() { println!() }").len(), 1);
        assert_eq!(check_vault_manifest("[dependencies]\nbytes = \"1\"").len(), 0);
        assert_eq!(check_vault_manifest("[dependencies]\netcd-client = \"1\"").len(), 1);
    }
}
