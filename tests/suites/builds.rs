//! Projects are built, packages installed and repositories kept in a mount, and the other mount holds working results.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_tests::machine::{self, Need};
use dfs_tests::{Cluster, Setup, process, run, user};

const DEADLINE: Duration = Duration::from_secs(300);

fn with(needs: &[Need], test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2).needs(needs), test);
}

/// Runs a script and returns what it says, trimmed.
fn said(directory: &Path, script: &str) -> Result<String> {
    Ok(process::shell(directory, script, DEADLINE)?.trim().to_owned())
}

const C_PROJECT: &str = r##"
mkdir -p project/include project/src && cd project
cat > Makefile <<'END'
SOURCES := $(wildcard src/*.c)
OBJECTS := $(SOURCES:.c=.o)
CFLAGS := -O0 -g -MMD -MP -Iinclude
hello: main.o libparts.a
	$(CC) -o $@ $^
libparts.a: $(OBJECTS)
	$(AR) rcs $@ $?
-include $(wildcard *.d src/*.d)
END
calls=
for number in $(seq 30); do
    echo "int part_$number(void);" > include/part_$number.h
    printf '#include "part_%s.h"\nint part_%s(void) { return %s; }\n' $number $number $number > src/part_$number.c
    calls="$calls + part_$number()"
done
{ for number in $(seq 30); do echo "#include \"part_$number.h\""; done
  echo '#include <stdio.h>'
  echo "int main(void) { printf(\"%d\\n\", 0 $calls); return 0; }"; } > main.c
make -s -j4
./hello
make -q
"##;

#[test]
fn make_builds_a_c_project_and_both_mounts_know_what_is_up_to_date() {
    with(&[Need::Program("cc"), Need::Program("make")], |cluster| {
        ensure!(said(cluster.a(), C_PROJECT)? == "465");
        cluster.expect_equal_trees()?;
        ensure!(
            said(&cluster.b().join("project"), "make -q && ./hello")? == "465",
            "nothing is to be built in b"
        );
        let edit =
            "sed -i 's/return 7/return 1007/' src/part_7.c; make | grep -c -- ' -c '; ./hello; make -q";
        ensure!(said(&cluster.b().join("project"), edit)? == "1\n1465", "one file is compiled in b");
        cluster.expect_equal_trees()?;
        ensure!(said(&cluster.a().join("project"), "make -q && ./hello")? == "1465", "and none in a then");
        let header = "echo '/* more */' >> include/part_9.h; make | grep -c -- ' -c '; make -s clean 2>/dev/null || make -q";
        ensure!(
            said(&cluster.a().join("project"), header)? == "2",
            "what includes a header is compiled again"
        );
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn git_collects_garbage_and_keeps_worktrees() {
    with(&[Need::Program("git")], |cluster| {
        let script = "git init -q -b main one && cd one
            for number in $(seq 40); do
                mkdir -p dir$((number % 5)); seq $((number * 50)) > dir$((number % 5))/file$number
                git add . && git commit -q -m $number; [ $((number % 10)) -ne 0 ] || git tag t$number
            done
            git gc -q --prune=now; test $(find .git/objects -name '*.pack' | wc -l) -eq 1
            git worktree add -q ../side -b side
            (cd ../side && git mv dir1 moved && echo side > side && git add . && git commit -q -m side)
            echo dirty >> dir2/file2; git stash -q; git stash pop -q; git checkout -q -- .
            git checkout -q -b base t20; echo base > base; git add base; git commit -q -m base; git rebase -q main
            git checkout -q main; git merge -q --no-edit side; git merge -q --no-edit base
            test -f moved/file1 -a -f side -a -f base
            git worktree remove ../side; test ! -e ../side; git worktree prune; git branch -q -d side
            git repack -q -a -d -f; git reflog expire --expire=now --all; git gc -q --aggressive --prune=now
            git bundle create -q ../all.bundle --all; git bundle verify -q ../all.bundle
            git clone -q ../one ../linked; git -C ../linked fsck --full --strict
            git fsck --full --strict; test -z \"$(git status --porcelain)\"";
        process::shell(cluster.a(), script, DEADLINE)?;
        cluster.expect_equal_trees()?;
        let there = "cd one; git fsck --full --strict >&2; git status --porcelain; git rev-list --count HEAD; cat side base
            git gc -q --prune=now; echo b > b; git add b; git commit -q -m b; git clone -q ../all.bundle ../from-bundle";
        let said = said(cluster.b(), there)?;
        ensure!(said == "43\nside\nbase", "git in the other mount says:\n{said}");
        cluster.expect_equal_trees()?;
        process::shell(cluster.a(), "cd one; git fsck --full --strict; test -f b", DEADLINE)?;
        Ok(())
    });
}

const WHEEL: &str = r#"
import sys, zipfile
info = "greet_tool-1.0.dist-info"
files = {
    "greet_tool/__init__.py": "def main():\n    print('hello from a wheel')\n",
    **{f"greet_tool/part{n}.py": f"NUMBER = {n}\n" for n in range(50)},
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: greet-tool\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": "[console_scripts]\ngreet = greet_tool:main\n",
}
files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
with zipfile.ZipFile("greet_tool-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

#[test]
fn pip_installs_into_a_virtual_environment() {
    with(&[Need::PythonVenv], |cluster| {
        fs::write(cluster.a().join("wheel.py"), WHEEL)?;
        let script = "python3 wheel.py && python3 -m venv env
            pip() { env/bin/python -m pip --disable-pip-version-check --no-cache-dir \"$@\"; }
            pip install -q --no-index ./greet_tool-1.0-py3-none-any.whl
            env/bin/greet; pip check >&2; pip list | grep -c greet";
        let here = said(cluster.a(), script)?;
        ensure!(here == "hello from a wheel\n1", "{here}");
        cluster.expect_equal_trees()?;
        let there = "env/bin/python -c 'import greet_tool, greet_tool.part7; greet_tool.main(); print(greet_tool.__file__)'";
        let there = said(cluster.b(), there)?;
        let file = cluster.b().join("env").display().to_string();
        ensure!(there.starts_with(&format!("hello from a wheel\n{file}")), "{there}");
        let gone = "env/bin/python -m pip uninstall -q -y greet-tool; find env -name 'greet*' | wc -l";
        ensure!(said(cluster.a(), gone)? == "0");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn npm_installs_packs_and_runs() {
    // Debian's npm brings hundreds of packages along, so it is no need of the whole run.
    if machine::leaves_out("npm_installs_packs_and_runs", Need::Program("npm")) {
        return;
    }
    with(&[], |cluster| {
        let script = r#"export npm_config_cache="$PWD/cache" npm_config_offline=true npm_config_audit=false npm_config_fund=false
            export npm_config_update_notifier=false npm_config_loglevel=error HOME="$PWD"
            mkdir -p greet/lib && cd greet
            for number in $(seq 50); do echo "module.exports = $number;" > lib/part$number.js; done
            echo '{"name": "greet", "version": "1.0.0", "bin": {"greet": "greet.js"}, "main": "lib/part7.js"}' > package.json
            printf '#!/usr/bin/env node\nconsole.log("hello from npm");\n' > greet.js; chmod +x greet.js
            npm pack --silent >/dev/null; cd ..; mkdir project; cd project
            echo '{"name": "project", "version": "1.0.0", "scripts": {"hello": "greet"}}' > package.json
            npm install --silent ../greet/greet-1.0.0.tgz >/dev/null
            npm run --silent hello; npm ls --parseable | wc -l; node -e 'console.log(require("greet"))'
            npm ci --silent >/dev/null; test -L node_modules/.bin/greet; npm run --silent hello"#;
        let here = said(cluster.a(), script)?;
        ensure!(here == "hello from npm\n2\n7\nhello from npm", "{here}");
        cluster.expect_equal_trees()?;
        ensure!(
            said(cluster.b(), "cd project; npm run --silent hello; rm -r node_modules")? == "hello from npm"
        );
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn all_of_this_works_for_an_ordinary_user() -> Result<()> {
    user::rerun_suite_as_ordinary_user("all_of_this_works_for_an_ordinary_user")
}
