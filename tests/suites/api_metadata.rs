//! `/api/metadata/…` with the real curl, beside mounts of the same volume.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::binaries::workspace;
use dfs_tests::process::{output, quiet_environment, shell};
use dfs_tests::{Cluster, Setup, eventually, run};
use serde_json::Value;
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs curl; returns the status and the body.
fn curl(cluster: &Cluster, arguments: &[&str], route: &str) -> Result<(u16, String)> {
    let mut command = Command::new("curl");
    quiet_environment(&mut command);
    command.current_dir(cluster.scratch("curl")?);
    command.args(["-sS", "-w", "\n%{http_code}"]).args(arguments);
    command.arg(format!("http://127.0.0.1:{}/api/metadata/{route}", cluster.server.port()));
    let output = output(&mut command, DEADLINE)?;
    let text = String::from_utf8(output.stdout)?;
    let (body, status) = text.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// Runs curl, wants this status and JSON.
fn json(cluster: &Cluster, wanted: u16, arguments: &[&str], route: &str) -> Result<Value> {
    let (status, body) = curl(cluster, arguments, route)?;
    ensure!(status == wanted, "{route}: {status} instead of {wanted}: {body}");
    serde_json::from_str(&body).with_context(|| format!("not JSON: {body}"))
}

fn code(cluster: &Cluster, wanted: u16, arguments: &[&str], route: &str) -> Result<String> {
    let error = json(cluster, wanted, arguments, route)?;
    ensure!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    Ok(error["error"]["code"].as_str().with_context(|| format!("no code in {error}"))?.to_owned())
}

fn get(cluster: &Cluster, path: &str) -> Result<Value> {
    json(cluster, 200, &[], &format!("get/{path}"))
}

fn list(cluster: &Cluster, query: &str) -> Result<Vec<String>> {
    let listed = json(cluster, 200, &[], &format!("list?{query}"))?;
    let files = listed["files"].as_array().context("no files")?;
    Ok(files.iter().filter_map(|file| file["file_path"].as_str().map(ToOwned::to_owned)).collect())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::from("sha256:"), |text, byte| format!("{text}{byte:02x}"))
}

fn with_mount(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(1), test);
}

fn server_only(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(0), test);
}

fn appears(path: &Path, wanted: &[u8]) -> Result<()> {
    eventually(&format!("{} has its content", path.display()), || {
        Ok(fs::read(path).ok().as_deref() == Some(wanted))
    })
}

#[test]
fn the_curl_lines_of_the_document_work() {
    with_mount(|cluster| {
        let text = fs::read_to_string(workspace().join("docs/API.md"))?;
        let section = text.split("\n## Metadata\n").nth(1).context("no section on metadata")?;
        let section = section.split("\n## ").next().unwrap_or_default();
        let blocks: Vec<&str> =
            section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        ensure!(blocks.len() == 3, "{} blocks of commands", blocks.len());
        let address = format!("127.0.0.1:{}", cluster.server.port());
        let commands = blocks.concat().replace("127.0.0.1:8080", &address);
        let directory = cluster.scratch("document")?;
        let script = format!("set -eu\ncurl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{commands}");
        let said = shell(&directory, &script, DEADLINE)?;
        ensure!(said.contains("docs/document.pdf") && said.contains("file_metadata:"), "{said}");
        ensure!(said.contains("\"deleted\""), "{said}");
        cluster.settle()?;
        ensure!(!cluster.a().join("docs/document.pdf").exists(), "an announced file is in the mount");
        Ok(())
    });
}

#[test]
fn a_file_of_a_mount_is_told_with_its_hash_and_history() {
    with_mount(|cluster| {
        fs::create_dir(cluster.a().join("dir"))?;
        let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_be_bytes).collect();
        fs::write(cluster.a().join("dir/large"), &large)?;
        fs::write(cluster.a().join("dir/f"), b"one")?;
        cluster.settle()?;
        let file = get(cluster, "dir/large")?;
        ensure!(file["hash"] == sha256(&large).as_str() && file["size"] == large.len(), "{file}");
        ensure!(file["sync_state"] == "synced", "{file}");
        // The mount may have said by now that it holds it too.
        let first = &file["replicas"][0];
        ensure!(*first == serde_json::json!({"node": "server", "version": file["version"]}), "{file}");
        let owner = fs::metadata(cluster.a().join("dir/f"))?.uid().to_string();
        ensure!(get(cluster, "dir/f")?["owner"] == owner.as_str(), "owner {owner}");
        let before = get(cluster, "dir/f")?["version"].as_u64().context("version")?;
        fs::write(cluster.a().join("dir/f"), b"two!")?;
        cluster.settle()?;
        let history = json(cluster, 200, &[], "history/dir/f")?;
        let versions = history["versions"].as_array().context("versions")?;
        ensure!(versions[0]["hash"] == sha256(b"two!").as_str(), "{history}");
        ensure!(versions[0]["version"].as_u64().is_some_and(|version| version > before), "{history}");
        ensure!(versions.iter().any(|version| version["hash"] == sha256(b"one").as_str()), "{history}");
        ensure!(list(cluster, "")? == ["dir/f", "dir/large"], "the list");
        fs::remove_file(cluster.a().join("dir/f"))?;
        cluster.settle()?;
        ensure!(code(cluster, 404, &[], "get/dir/f")? == "file_not_found", "get");
        let history = json(cluster, 200, &[], "history/dir/f")?;
        ensure!(history["versions"][0]["sync_state"] == "deleted", "{history}");
        Ok(())
    });
}

#[test]
fn what_is_added_updated_and_deleted_by_curl_shows_in_the_mount() {
    with_mount(|cluster| {
        fs::write(cluster.a().join("origin"), b"the bytes")?;
        cluster.settle()?;
        let hash = sha256(b"the bytes");
        let add = format!(
            r#"{{"file_path":"made/by/curl","hash":"{hash}","size":9,"owner":"ann","last_modified":"2024-01-15T10:30:00Z"}}"#
        );
        let made = json(cluster, 201, &["-d", &add], "add")?;
        ensure!(made["version"] == 1 && made["owner"] == "ann", "{made}");
        let path = cluster.a().join("made/by/curl");
        appears(&path, b"the bytes")?;
        ensure!(fs::metadata(&path)?.mtime() == 1_705_314_600, "the time");
        ensure!(json(cluster, 200, &["-d", &add], "add")? == made, "added twice");
        let mut names = vec![0; 4096];
        let len = rustix::fs::listxattr(&path, &mut names)?;
        ensure!(len == 0, "listed: {:?}", String::from_utf8_lossy(&names[..len]));
        let mut owner = [0; 64];
        let len = rustix::fs::getxattr(&path, "user.dfs.owner", &mut owner)?;
        ensure!(&owner[..len] == b"ann", "the owner's attribute");

        fs::write(cluster.a().join("other"), b"other bytes")?;
        cluster.settle()?;
        let hash = sha256(b"other bytes");
        let update = format!(r#"{{"file_path":"made/by/curl","hash":"{hash}","size":11,"version":1}}"#);
        let updated = json(cluster, 200, &["-X", "PUT", "-d", &update], "update")?;
        ensure!(updated["version"] == 2 && updated["hash"] == hash.as_str(), "{updated}");
        appears(&path, b"other bytes")?;
        ensure!(code(cluster, 409, &["-X", "PUT", "-d", &update], "update")? == "version_conflict", "stale");
        ensure!(code(cluster, 409, &["-d", &add], "add")? == "exists", "another content");

        fs::write(&path, b"written in the mount")?;
        cluster.settle()?;
        let file = get(cluster, "made/by/curl")?;
        ensure!(file["version"] == 3 && file["owner"] == "ann", "{file}");
        let deleted = json(cluster, 200, &["-X", "DELETE"], "delete/made/by/curl")?;
        ensure!(deleted["sync_state"] == "deleted", "{deleted}");
        eventually("the file is gone", || Ok(!path.exists()))?;
        ensure!(code(cluster, 404, &["-X", "DELETE"], "delete/made/by/curl")? == "file_not_found", "twice");
        Ok(())
    });
}

fn ddl(name: &str, hash: &str, size: usize) -> String {
    format!(
        "file_metadata:\n  name: \"{name}\"\n  version: 1\n  size: {size}\n  hash: \"{hash}\"\n  \
         last_modified: \"2024-01-15T10:30:00Z\"\n  owner: \"laptop1\"\n  sync_state:\n    status: \"synced\"\n    \
         replicas:\n      - node: \"server1\"\n        version: 3\n      - node: \"b\"\n        version: 2\n"
    )
}

#[test]
fn the_metadata_language_comes_in_with_and_without_its_line_breaks() {
    server_only(|cluster| {
        let directory = cluster.scratch("curl")?;
        let both = ddl("one", &sha256(b"1"), 1) + &ddl("two", "sha256:abc123", 2);
        fs::write(directory.join("file.ddl"), &both)?;
        let mut answers = Vec::new();
        for option in ["-d", "--data-binary"] {
            let added = json(cluster, 202, &[option, "@file.ddl"], "add")?;
            ensure!(added["files"].as_array().is_some_and(|files| files.len() == 2), "{added}");
            answers.push((added, get(cluster, "two")?));
            json(cluster, 200, &["-X", "DELETE"], "delete/one")?;
            json(cluster, 200, &["-X", "DELETE"], "delete/two")?;
        }
        ensure!(answers[0] == answers[1], "{answers:?}");
        ensure!(
            answers[0].1["sync_state"] == "modified" && answers[0].1["replicas"] == serde_json::json!([]),
            "{answers:?}"
        );

        fs::write(directory.join("windows.ddl"), both.replace('\n', "\r\n"))?;
        json(cluster, 202, &["-d", "@windows.ddl"], "add")?;
        json(cluster, 200, &["-X", "PUT", "-d", r#"{"file_path":"one","owner":"ann"}"#], "update")?;
        let accept = ["-H", "Accept: text/x-dfs-ddl"];
        let (status, text) = curl(cluster, &accept, "get/one")?;
        ensure!(status == 200 && text.contains("owner: \"ann\"") && text.contains("name: \"one\""), "{text}");
        fs::write(directory.join("exported.ddl"), curl(cluster, &accept, "list")?.1)?;
        json(cluster, 200, &["-X", "PUT", "-d", "@exported.ddl"], "update")?;

        fs::write(directory.join("bad.ddl"), both.replace("size: 1", "size: big").replace("abc123", "xyz"))?;
        let bad = json(cluster, 400, &["--data-binary", "@bad.ddl"], "add")?;
        let message = bad["error"]["message"].as_str().context("message")?;
        ensure!(message.contains("line 4, column 9") && message.contains("line 19, column 9"), "{message}");
        fs::write(directory.join("comment.ddl"), format!("# a comment\n{both}"))?;
        json(cluster, 202, &["--data-binary", "@comment.ddl"], "add")?;
        let comment = json(cluster, 400, &["-d", "@comment.ddl"], "add")?;
        ensure!(comment.to_string().contains("--data-binary"), "{comment}");
        Ok(())
    });
}

#[test]
fn what_is_exported_from_a_mounts_files_brings_them_back_when_it_is_imported() {
    with_mount(|cluster| {
        let odd = std::ffi::OsStr::from_bytes(b"odd \xff \"name\"");
        let large: Vec<u8> = (0..400_000_u32).flat_map(u32::to_be_bytes).collect();
        let files: [(&std::ffi::OsStr, &[u8]); 3] =
            [("large".as_ref(), &large), (odd, b"odd"), ("empty".as_ref(), b"")];
        fs::create_dir(cluster.a().join("tree"))?;
        for (name, bytes) in files {
            fs::write(cluster.a().join("tree").join(name), bytes)?;
        }
        fs::write(cluster.a().join("other"), b"not exported")?;
        cluster.settle()?;
        let directory = cluster.scratch("curl")?;
        let export = |file: &str| -> Result<String> {
            let (status, _) = curl(cluster, &["-o", file, "-D", "head"], "export?prefix=tree/")?;
            let head = fs::read_to_string(directory.join("head"))?;
            ensure!(status == 200 && head.contains("text/x-dfs-ddl"), "{status}: {head}");
            Ok(fs::read_to_string(directory.join(file))?)
        };
        let before = export("tree.ddl")?;
        ensure!(before.matches("file_metadata:").count() == 3, "{before}");
        ensure!(before.contains(&sha256(&large)), "{before}");
        let same = json(cluster, 200, &["--data-binary", "@tree.ddl"], "import")?;
        ensure!(same["unchanged"] == 3 && same["made"] == 0, "{same}");

        fs::remove_dir_all(cluster.a().join("tree"))?;
        cluster.settle()?;
        ensure!(export("none.ddl")?.is_empty(), "a removed tree is exported");
        let made = json(cluster, 200, &["--data-binary", "@tree.ddl"], "import")?;
        ensure!(made["made"] == 3 && made["refused"] == 0 && made["left"] == 0, "{made}");
        for (name, bytes) in files {
            appears(&cluster.a().join("tree").join(name), bytes)?;
        }
        // The mount says in its own time which of them it holds.
        let without_replicas = |text: &str| -> Vec<String> {
            let is_kept = |line: &&str| !line.starts_with("    replicas:") && !line.starts_with("      ");
            text.lines().filter(is_kept).map(ToOwned::to_owned).collect()
        };
        let again = export("again.ddl")?;
        ensure!(without_replicas(&again) == without_replicas(&before), "exported again: {again}");

        fs::write(
            directory.join("mixed.ddl"),
            ddl("tree/empty", &sha256(b"x"), 1) + &ddl("new", &sha256(b"odd"), 3),
        )?;
        let mixed = json(cluster, 200, &["--data-binary", "@mixed.ddl"], "import")?;
        ensure!(
            mixed["files"][0]["error"]["code"] == "exists" && mixed["files"][1]["result"] == "made",
            "{mixed}"
        );
        appears(&cluster.a().join("new"), b"odd")?;
        let bad = before.replace("  size: 3", "  size: big") + &ddl("last", "md5", 1);
        fs::write(directory.join("bad.ddl"), bad.replace("tree/", "elsewhere/"))?;
        let bad = json(cluster, 400, &["--data-binary", "@bad.ddl"], "import")?;
        let message = bad["error"]["message"].as_str().context("message")?;
        ensure!(
            message.contains("for `size`") && message.contains("`hash` cannot be"),
            "all errors: {message}"
        );
        ensure!(!cluster.a().join("elsewhere").exists(), "a bad text changes nothing");
        Ok(())
    });
}

#[test]
fn an_import_takes_32_mib_and_not_a_byte_more_and_more_records_than_add() {
    server_only(|cluster| {
        let directory = cluster.scratch("curl")?;
        let many: String = (0..1001).map(|number| ddl(&format!("many/{number:04}"), "sha256:1", 1)).collect();
        fs::write(directory.join("many.ddl"), &many)?;
        let done = json(cluster, 200, &["--data-binary", "@many.ddl"], "import")?;
        ensure!(done["announced"] == 1001, "{}", done["announced"]);
        let listed = curl(cluster, &[], "export?prefix=many/")?.1;
        ensure!(listed.matches("file_metadata:").count() == 1001, "pages of an export");
        let mut long = ddl("long", "sha256:1", 1) + "# ";
        long += &"x".repeat((32 << 20) - long.len());
        fs::write(directory.join("long.ddl"), &long)?;
        let at_the_limit = json(cluster, 200, &["--data-binary", "@long.ddl"], "import")?;
        ensure!(at_the_limit["announced"] == 1, "{at_the_limit}");
        fs::write(directory.join("longer.ddl"), long + "x")?;
        ensure!(
            code(cluster, 413, &["--data-binary", "@longer.ddl"], "import")? == "body_too_large",
            "past it"
        );
        Ok(())
    });
}

#[test]
fn an_announced_file_becomes_one_when_its_content_is_there() {
    with_mount(|cluster| {
        let add = format!(r#"{{"file_path":"later","hash":"{}","size":5,"version":7}}"#, sha256(b"later"));
        let announced = json(cluster, 202, &["-d", &add], "add")?;
        ensure!(announced["version"] == 7 && announced["sync_state"] == "modified", "{announced}");
        ensure!(get(cluster, "later")? == announced, "get");
        ensure!(list(cluster, "prefix=la")? == ["later"], "list");
        let stale = r#"{"file_path":"later","version":6}"#;
        ensure!(code(cluster, 409, &["-X", "PUT", "-d", stale], "update")? == "version_conflict", "stale");
        fs::write(cluster.a().join("somewhere"), b"later")?;
        cluster.settle()?;
        ensure!(!cluster.a().join("later").exists(), "shown before it was there");
        let made = json(cluster, 201, &["-d", &add], "add")?;
        ensure!(made["version"] == 1 && made["sync_state"] == "synced", "{made}");
        appears(&cluster.a().join("later"), b"later")?;
        ensure!(list(cluster, "")? == ["later", "somewhere"], "once");
        Ok(())
    });
}

#[test]
fn pages_follow_each_other_and_names_may_be_any_bytes() {
    with_mount(|cluster| {
        let odd = std::ffi::OsStr::from_bytes(b"odd \xff %41 name?");
        fs::write(cluster.a().join(odd), b"odd")?;
        for name in ["b", "a", "é"] {
            fs::create_dir(cluster.a().join(name))?;
            for number in 0..5 {
                fs::write(cluster.a().join(name).join(number.to_string()), b"x")?;
            }
        }
        cluster.settle()?;
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = json(cluster, 200, &[], &format!("list?limit=3&cursor={cursor}"))?;
            let files = page["files"].as_array().context("files")?;
            ensure!(files.len() <= 3, "{page}");
            seen.extend(files.iter().filter_map(|file| file["file_path"].as_str().map(ToOwned::to_owned)));
            match page["cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        ensure!(seen.len() == 16 && seen[0] == "a/0" && seen[10] == "odd %FF %2541 name?", "{seen:?}");
        ensure!(list(cluster, "limit=100")? == seen, "one page");
        ensure!(list(cluster, "prefix=%C3%A9/&limit=100")?.len() == 5, "a prefix");
        let file = get(cluster, "odd%20%FF%20%2541%20name%3F")?;
        ensure!(file["file_path"] == "odd %FF %2541 name?", "{file}");
        let update = r#"{"file_path":"odd %FF %2541 name?","owner":"me"}"#;
        json(cluster, 200, &["-X", "PUT", "-d", update], "update")?;
        Ok(())
    });
}

#[test]
fn refusals_have_codes() {
    server_only(|cluster| {
        json(cluster, 201, &["-d", r#"{"file_path":"f","size":0}"#], "add")?;
        let put = ["-X", "PUT", "-d"];
        let with = |body| [&put[..], &[body]].concat();
        let unknown = format!(r#"{{"file_path":"f","hash":"{}","size":9}}"#, sha256(b"unknown"));
        ensure!(code(cluster, 422, &with(&unknown), "update")? == "content_unknown", "update");
        ensure!(code(cluster, 404, &with(r#"{"file_path":"g"}"#), "update")? == "file_not_found", "update");
        let table = [
            ("{}", "missing_field"),
            (r#"{"file_path":"g","size":1}"#, "missing_field"),
            (r#"{"file_path":"g"}"#, "missing_field"),
            (r#"{"file_path":"g","size":"1"}"#, "bad_field"),
            (r#"{"file_path":"a/../g","size":0}"#, "bad_path"),
            ("{", "bad_json"),
            ("hello", "bad_metadata_text"),
            ("", "bad_metadata_text"),
        ];
        for (body, wanted) in table {
            let found = code(cluster, 400, &["-d", body], "add")?;
            ensure!(found == wanted, "{body}: {found}");
        }
        ensure!(
            code(cluster, 409, &["-d", r#"{"file_path":"f/g","size":0}"#], "add")? == "not_a_directory",
            "below"
        );
        ensure!(code(cluster, 400, &["--path-as-is"], "get/a/../f")? == "bad_path", "dots");
        ensure!(code(cluster, 400, &[], "list?limit=0")? == "bad_limit", "limit");
        ensure!(code(cluster, 400, &[], "list?limit=10001")? == "bad_limit", "limit");
        json(cluster, 200, &[], "list?limit=10000")?;
        let many: String = (0..1001).map(|number| ddl(&number.to_string(), "sha256:1", 1)).collect();
        fs::write(cluster.scratch("curl")?.join("many.ddl"), many)?;
        ensure!(code(cluster, 413, &["--data-binary", "@many.ddl"], "add")? == "too_many", "records");
        let many: String = (0..1000).map(|number| ddl(&number.to_string(), "sha256:1", 1)).collect();
        fs::write(cluster.scratch("curl")?.join("most.ddl"), many)?;
        let most = json(cluster, 202, &["--data-binary", "@most.ddl"], "add")?;
        ensure!(most["files"].as_array().is_some_and(|files| files.len() == 1000), "as many as allowed");
        ensure!(code(cluster, 400, &[], "list?cursor=xy")? == "bad_cursor", "cursor");
        ensure!(code(cluster, 404, &[], "list?volume=no")? == "volume_not_found", "volume");
        ensure!(code(cluster, 400, &[], "list?volume=a%20b")? == "bad_volume_name", "volume name");
        let missing = json(cluster, 400, &["-d", "{}"], "add")?;
        ensure!(missing.to_string().contains("file_path"), "{missing}");
        Ok(())
    });
}
