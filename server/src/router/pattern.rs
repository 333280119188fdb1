//! The tree of patterns: one node per segment, searched with backtracking, literals before params before the rest.

use std::ops::Range;

use bytes::Bytes;

use crate::http::percent_decode;

/// Params of a matched path, decoded.
pub(super) type Values = Vec<(&'static str, Bytes)>;

/// All patterns of a router.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: Vec<(&'static str, Node)>,
    param: Option<Box<Node>>,
    end: Option<Leaf>,
    rest: Option<Leaf>,
}

/// Where a pattern ends: the route's index and the names of its params.
#[derive(Debug)]
struct Leaf {
    index: usize,
    names: Vec<&'static str>,
}

impl Tree {
    /// Adds a pattern under `index`, or returns the index that it already has.
    ///
    /// # Panics
    /// If the pattern is malformed.
    pub(super) fn insert(&mut self, pattern: &'static str, index: usize) -> usize {
        let path = pattern.strip_prefix('/').expect("a pattern starts with a slash");
        let mut node = &mut self.root;
        let mut names = Vec::new();
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
                Some(inner) => {
                    if let Some(name) = inner.strip_suffix("...") {
                        assert!(segments.peek().is_none(), "`{pattern}` goes on after its rest");
                        names.push(name);
                        return node.rest.get_or_insert(Leaf { index, names }).index;
                    }
                    names.push(inner);
                    node = node.param.get_or_insert_default();
                }
                None => {
                    assert!(!segment.contains(['{', '}', '%']), "`{pattern}` is malformed");
                    let at = node.literals.iter().position(|(literal, _)| *literal == segment);
                    let at = at.unwrap_or_else(|| {
                        node.literals.push((segment, Node::default()));
                        node.literals.len() - 1
                    });
                    node = &mut node.literals[at].1;
                }
            }
        }
        node.end.get_or_insert(Leaf { index, names }).index
    }

    /// Finds the route of a path as sent.
    pub(super) fn find(&self, raw_path: &Bytes) -> Option<(usize, Values)> {
        if raw_path.first() != Some(&b'/') {
            return None;
        }
        let mut captures = Vec::new();
        let leaf = self.root.find(raw_path, Some(1), &mut captures)?;
        let decode = |(name, range): (&&'static str, Range<usize>)| {
            Some((*name, percent_decode(&raw_path.slice(range), false)?))
        };
        let values = leaf.names.iter().zip(captures).map(decode).collect::<Option<Values>>()?;
        Some((leaf.index, values))
    }
}

impl Node {
    /// Finds the leaf for the segments from `start` on; `None` for `start` is the end of the path.
    fn find(&self, path: &Bytes, start: Option<usize>, captures: &mut Vec<Range<usize>>) -> Option<&Leaf> {
        let Some(start) = start else { return self.end.as_ref() };
        let slash = path[start..].iter().position(|byte| *byte == b'/').map(|at| start + at);
        let (end, next) = (slash.unwrap_or(path.len()), slash.map(|at| at + 1));
        if let Some(node) = self.literal(path, start..end)
            && let Some(leaf) = node.find(path, next, captures)
        {
            return Some(leaf);
        }
        if let Some(node) = self.param.as_ref().filter(|_| start < end) {
            captures.push(start..end);
            if let Some(leaf) = node.find(path, next, captures) {
                return Some(leaf);
            }
            captures.pop();
        }
        let rest = self.rest.as_ref().filter(|_| start < path.len())?;
        captures.push(start..path.len());
        Some(rest)
    }

    fn literal(&self, path: &Bytes, segment: Range<usize>) -> Option<&Node> {
        let find = |bytes: &[u8]| {
            self.literals.iter().find(|(literal, _)| literal.as_bytes() == bytes).map(|(_, node)| node)
        };
        if path[segment.clone()].contains(&b'%') {
            return find(&percent_decode(&path.slice(segment), false)?);
        }
        find(&path[segment])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for (index, pattern) in [
            "/",
            "/sync/{volume}/commit",
            "/sync/main/{what}",
            "/file/{path...}",
            "/file/{id}/meta",
            "/sync/{v}",
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(tree.insert(pattern, index), index);
        }
        tree
    }

    fn find(path: &'static str) -> Option<(usize, Vec<String>)> {
        let (index, values) = tree().find(&Bytes::from_static(path.as_bytes()))?;
        let texts = values.into_iter().map(|(name, value)| format!("{name}={}", value.escape_ascii()));
        Some((index, texts.collect()))
    }

    #[test]
    fn literals_win_over_params_and_params_over_the_rest() {
        type Match = Option<(usize, &'static [&'static str])>;
        let table: [(&str, Match); 14] = [
            ("/", Some((0, &[]))),
            ("/sync/a/commit", Some((1, &["volume=a"]))),
            ("/sync/main/commit", Some((2, &["what=commit"]))),
            ("/sync/main/other", Some((2, &["what=other"]))),
            ("/sync/main", Some((5, &["v=main"]))),
            ("/s%79nc/main", Some((5, &["v=main"]))),
            ("/sync/a%2Fb%25", Some((5, &["v=a/b%"]))),
            ("/sync/", None),
            ("/sync/a/other", None),
            ("/file/a/meta", Some((4, &["id=a"]))),
            ("/file/a/meta/b", Some((3, &["path=a/meta/b"]))),
            ("/file/a%20b//c", Some((3, &["path=a b//c"]))),
            ("/file/", None),
            ("", None),
        ];
        for (path, expected) in table {
            let expected =
                expected.map(|(index, values)| (index, values.iter().map(ToString::to_string).collect()));
            assert_eq!(find(path), expected, "{path}");
        }
    }

    #[test]
    fn a_pattern_keeps_its_first_index() {
        let mut tree = tree();
        assert_eq!(tree.insert("/sync/{volume}/commit", 9), 1);
        assert_eq!(tree.insert("/file/{path...}", 9), 3);
    }
}
