//! The documentation leads somewhere: every relative link and every heading that one names exists, every page is
//! in the index, and the README stays short enough to be read in one sitting.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test may break it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a folder with one of these extensions, relative to the root.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).expect(folder) {
        let path = entry.expect("an entry").path();
        let relative = path
            .strip_prefix(root())
            .expect("below the root")
            .to_owned();
        if path.is_dir() {
            found.extend(files(relative.to_str().expect("UTF-8"), extensions));
        } else if extensions
            .iter()
            .any(|one| path.extension().is_some_and(|own| own == *one))
        {
            found.push(relative);
        }
    }
    found.sort();
    found
}

/// The pages whose links are checked.
fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", &["md"]);
    assert!(pages.len() >= 15, "only {} pages in docs/", pages.len());
    for page in [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "benches/peers/README.md",
    ] {
        pages.push(page.into());
    }
    pages
}

/// The lines of a page that are not in a code block, counted from 1.
fn prose(page: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    (1..)
        .zip(page.lines())
        .filter(|(_, line)| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        })
        .collect()
}

/// The targets of the links of a page, each with its line.
fn links(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(page) {
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                found.push((number, target));
            }
        }
    }
    found
}

/// The anchors of a page, as GitHub makes them of headings: lower case, without punctuation, hyphens for spaces.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for (_, line) in prose(page) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let anchor: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|char| char.is_alphanumeric() || " -_".contains(*char))
            .map(|char| if char == ' ' { '-' } else { char })
            .collect();
        let seen = times.entry(anchor.clone()).or_default();
        found.insert(match *seen {
            0 => anchor,
            n => format!("{anchor}-{n}"),
        });
        *seen += 1;
    }
    found
}

/// What is wrong with a link of `page` to `target`, if anything is. Other sites are not asked.
fn problem(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = match target.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (target, None),
    };
    let mut path = PathBuf::new();
    if file.is_empty() {
        path.push(page);
    } else {
        for part in page.parent().expect("a folder").join(file).components() {
            match part {
                Component::ParentDir if !path.pop() => return Some(format!("{target}: leads out")),
                Component::Normal(name) => path.push(name),
                _ => {}
            }
        }
    }
    if !root().join(&path).exists() {
        return Some(format!("{target}: no such file"));
    }
    let anchor = anchor?;
    (!anchors(&text(&path)).contains(anchor)).then(|| format!("{target}: no such heading"))
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    let mut broken = Vec::new();
    for page in pages() {
        for (line, target) in links(&text(&page)) {
            count += 1;
            if let Some(problem) = problem(&page, target) {
                broken.push(format!("{}:{line}: {problem}", page.display()));
            }
        }
    }
    assert!(count >= 150, "only {count} links");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    let page = Path::new("docs/rules.md");
    for target in [
        "headers.md",
        "../README.md",
        "../README.md#quick-start",
        "#conditions",
        "../config/",
        "configuration.md#auth0keys",
        "https://example.com/#nothing",
    ] {
        assert_eq!(problem(page, target), None, "{target}");
    }
    for target in [
        "docs/headers.md",
        "README.md#quick-start",
        "../README.md#slow-start",
        "#condition",
        "../config/none.toml",
        "../../README.md",
        "../Cargo.toml#rules",
    ] {
        assert!(problem(page, target).is_some(), "{target}");
    }
    let page =
        "# One `[two]`\n[a](b.md) [`c`](d.md#e)\n```sh\n# no [x](y.md)\n```\n## Twice\n## Twice\n";
    assert_eq!(links(page), [(2, "b.md"), (2, "d.md#e")]);
    let anchors: Vec<String> = anchors(page).into_iter().collect();
    assert_eq!(anchors, ["one-two", "twice", "twice-1"]);
}

/// Comments and messages name pages from the root, as `docs/limits.md`.
#[test]
fn every_page_that_a_file_names_exists() {
    let mut named = 0;
    let mut broken = Vec::new();
    let mut sources = files("config", &["toml", "yaml", "json", "service"]);
    sources.extend(files("src", &["rs"]));
    sources.extend(files("examples", &["rs"]));
    sources.push("Dockerfile".into());
    sources.push("Cargo.toml".into());
    for source in sources {
        for (number, line) in (1..).zip(text(&source).lines()) {
            let is_part = |char: char| char.is_ascii_alphanumeric() || "./#-_".contains(char);
            for word in line.split(|char| !is_part(char)) {
                let word = word.trim_end_matches('.');
                let file = word.split('#').next().unwrap_or_default();
                let extension = Path::new(file).extension();
                if file.is_empty() || extension.is_none_or(|extension| extension != "md") {
                    continue;
                }
                named += 1;
                // `include_str!` counts from the file.
                let word = word.trim_start_matches("../");
                if let Some(problem) = problem(Path::new("README.md"), word) {
                    broken.push(format!("{}:{number}: {problem}", source.display()));
                }
            }
        }
    }
    assert!(named >= 10, "only {named} pages are named");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_index_and_in_the_readme() {
    for index in ["docs/README.md", "README.md"] {
        let text = text(Path::new(index));
        let linked: BTreeSet<&str> = links(&text)
            .into_iter()
            .filter_map(|(_, target)| Path::new(target).file_name()?.to_str())
            .collect();
        for page in files("docs", &["md"]) {
            let name = page.file_name().and_then(|name| name.to_str());
            let name = name.expect("a name");
            assert!(
                name == "README.md" || linked.contains(name),
                "{index} has no link to {name}"
            );
        }
    }
}

#[test]
fn the_readme_is_short() {
    let readme = text(Path::new("README.md"));
    let lines = readme.lines().count();
    assert!(lines <= 250, "README.md has {lines} lines");
    for (number, line) in (1..).zip(readme.lines()) {
        let columns = line.chars().count();
        assert!(columns <= 130, "README.md:{number} has {columns} columns");
    }
}
