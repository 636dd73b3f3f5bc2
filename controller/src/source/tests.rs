use std::{fs, path::PathBuf};

use super::{directory::Directory, parse::parse, *};
use proptest::prelude::*;

fn errors(text: &str) -> Vec<String> {
    parse("shop.yaml", text).1.iter().map(ToString::to_string).collect()
}

#[test]
fn errors_name_file_line_and_field_and_neighbours_are_read() {
    let text = "\
# a comment
---
apiVersion: v1
kind: Service
metadata: {name: api}
spec:
  ports:
  - port: eighty
---
apiVersion: v1
kind: Pod
metadata: {name: api
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop}
---
kind: Pod
--- # the good one
apiVersion: v1
kind: Namespace
metadata: {name: shop}
...
apiVersion: apps/v1
kind: Deployment
metadata: {name: api}
";
    let (objects, errors) = parse("shop.yaml", text);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors[0], "shop.yaml:8: spec.ports[0].port: invalid i32");
    assert!(errors[1].starts_with("shop.yaml:1"), "{}", errors[1]);
    assert_eq!(
        errors[2..],
        ["shop.yaml:14: metadata.name: missing", "shop.yaml:18: no apiVersion or no kind"]
    );
    let keys: Vec<_> = objects.iter().map(Object::key).collect();
    assert_eq!(keys, [Some(("Namespace", String::new(), "shop".into())), None]);
    assert_eq!(objects[0].origin.line, 20);
}

#[test]
fn lists_json_and_single_objects_are_one() {
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "api"}}"#;
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {pod}\n- {}\n",
        pod.replace("\"metadata\"", "\"spec\": 3, \"metadata\"")
    );
    assert_eq!(parse("a.json", pod).0[0].kind, parse("a.yaml", &list).0[0].kind);
    let [error] = &errors(&list)[..] else { panic!("one error") };
    assert!(error.starts_with("shop.yaml:5: items[1].spec: "), "{error}");
}

#[test]
fn errors_about_our_annotations_name_their_line() {
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: api\n  annotations:\n    signet.dev/upstreams: 9001\n";
    let text = text.replace(": 9001", ": \"9001\"");
    let objects: Vec<_> = parse("pod.yaml", &text).0.into_iter().map(Arc::new).collect();
    let index = crate::index::Index::build(&crate::build::mesh(), &objects);
    let shown: Vec<String> = index.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["pod.yaml:6: metadata.annotations[signet.dev/upstreams]: \"9001\": expected <port>=<target>"]
    );
}

#[test]
fn a_bomb_of_aliases_is_refused_and_not_unfolded() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..30 {
        let alias = format!("*a{}", n - 1);
        text += &format!("a{n}: &a{n} [{}]\n", vec![alias; 10].join(","));
    }
    text += "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n";
    assert_eq!(parse("bomb.yaml", &text).0, []);
    let deep = format!("apiVersion: v1\nkind: Pod\nmetadata: {}", "[".repeat(100_000));
    assert_eq!(parse("deep.yaml", &deep).0, []);
    assert_eq!(errors(&"x".repeat(9 << 20)).len(), 1);
    assert!(parse("many.yaml", &"---\n".repeat(100_000)).1.is_empty());
}

proptest! {
    #[test]
    fn no_text_panics(text in "(---|[ \\n:\\-\\[\\]{}&*!|>'\"a-z]|kind: Pod\\n|apiVersion: v1\\n|\\PC){0,60}") {
        let _ = parse("any.yaml", &text);
    }
}

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("signet-source-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("sub")).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn named(kind: &str, name: &str) -> String {
    format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n")
}

fn names(directory: &Directory) -> Vec<String> {
    directory.contents().objects.iter().filter_map(|object| Some(object.key()?.2)).collect()
}

#[test]
fn a_directory_is_read_in_order_and_followed() {
    let dir = Dir::new("followed");
    dir.write("b.yaml", &named("Pod", "b"));
    dir.write("a.json", r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}"#);
    dir.write("sub/c.yml", &named("Pod", "c"));
    dir.write(".hidden.yaml", &named("Pod", "hidden"));
    dir.write("notes.txt", "not a manifest");
    let mut directory = Directory::new(&dir.0);
    assert!(directory.poll());
    assert!(!directory.poll());
    assert_eq!(names(&directory), ["a", "b", "c"]);
    dir.write("b.yaml", &named("Pod", "B")); // same size, perhaps the same tick of the clock
    assert!(directory.poll());
    fs::remove_file(dir.0.join("a.json")).unwrap();
    assert!(directory.poll());
    assert_eq!(names(&directory), ["B", "c"]);
}

#[test]
fn a_broken_file_keeps_what_it_held_and_says_so_until_it_is_mended() {
    let dir = Dir::new("stale");
    dir.write("a.yaml", &(named("Pod", "a") + &named("Pod", "b")));
    dir.write("z.yaml", &named("Pod", "z"));
    let mut directory = Directory::new(&dir.0);
    directory.poll();
    dir.write("a.yaml", &(named("Pod", "a") + "---\nkind: [\n" + &named("Pod", "new")));
    assert!(directory.poll());
    assert_eq!(names(&directory), ["a", "new", "b", "z"]);
    let errors = directory.contents().errors;
    assert!(errors[0].message.ends_with("; 1 objects of its last good state are kept"), "{}", errors[0]);
    dir.write("a.yaml", &named("Pod", "new"));
    assert!(directory.poll());
    assert_eq!((names(&directory), directory.contents().errors), (vec!["new".into(), "z".into()], vec![]));
}

#[test]
fn a_directory_that_cannot_be_listed_keeps_everything() {
    let dir = Dir::new("gone");
    dir.write("a.yaml", &named("Pod", "a"));
    let mut directory = Directory::new(&dir.0);
    directory.poll();
    fs::remove_dir_all(&dir.0).unwrap();
    assert!(directory.poll());
    assert_eq!((names(&directory), directory.contents().errors.len()), (vec!["a".into()], 1));
}

#[test]
fn doubles_are_named_with_both_places() {
    let dir = Dir::new("double");
    dir.write("a.yaml", &named("Pod", "x"));
    dir.write("b.yaml", &(named("Service", "x") + &named("Pod", "x")));
    let mut directory = Directory::new(&dir.0);
    directory.poll();
    let errors = directory.contents().errors;
    assert_eq!(names(&directory).len(), 2);
    assert_eq!(
        errors[0].to_string(),
        "b.yaml:6: metadata.name: Pod default/x is already at a.yaml:2; this one is left out"
    );
}

#[test]
fn the_example_of_the_manual_is_what_it_says() {
    let manual = include_str!("../../../docs/manifests.md");
    let example = manual.split("```yaml").nth(1).unwrap().split("```").next().unwrap();
    let (objects, errors) = parse("manual.yaml", example);
    let objects: Vec<_> = objects.into_iter().map(Arc::new).collect();
    let index = crate::index::Index::build(&crate::build::mesh(), &objects);
    assert_eq!((errors, index.errors.clone()), (vec![], vec![]));
    let shown: Vec<String> = crate::local::workloads(&index)
        .iter()
        .map(|w| format!("{}/{} {} {:?} {:?}", w.namespace, w.pod, w.service_account, w.inbound, w.upstreams))
        .collect();
    assert_eq!(
        shown,
        [
            "shop/api-0 api [Inbound { port: 8080, listen: 127.77.0.3:8080, target: 127.77.0.3:18080 }] []",
            "shop/web-0 web [] [Upstream { listen: 127.77.0.2:9001, to: \"api.shop:80\" }]",
        ]
    );
    assert!(crate::translate::address(&index, "127.77.1.1", None).is_some());
    assert_eq!(crate::translate::settings(&index, "shop/api-0").unwrap().policies.len(), 1);
    assert_eq!(crate::translate::settings(&index, "shop/web-0").unwrap().policies.len(), 0);
}
