//! What an edit would change, as lines that begin with `+`, `-` or a blank, made of whatever an
//! engine tells: two texts, a new text, or a patch. Pure.

/// Unchanged lines that are shown before and after a change.
const CONTEXT: usize = 3;

/// Stands for unchanged lines that are left out.
const GAP: &str = " …\n";

/// The lines by which `new` differs from `old`. What lies between the first and the last of them
/// is shown as replaced: nothing that changes is left out.
pub fn between(old: &str, new: &str) -> String {
    // With their ends, for these may be all that changes. Parts of a file have none at their own.
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let is_part = [&old, &new].iter().all(|text| text.last().is_none_or(|it| !it.ends_with('\n')));
    let same = |a: &str, b: &str| {
        a == b || (is_part && a.trim_end_matches('\n') == b.trim_end_matches('\n'))
    };
    let head = old.iter().zip(&new).take_while(|(old, new)| same(old, new)).count();
    let tail =
        old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| same(old, new)).count();
    let tail = tail.min(old.len().min(new.len()) - head);
    let before = head.saturating_sub(CONTEXT);
    let after = (old.len() - tail + CONTEXT).min(old.len());
    let mut diff = String::new();
    if before > 0 {
        diff += GAP;
    }
    put(&mut diff, ' ', &old[before..head]);
    put(&mut diff, '-', &old[head..old.len() - tail]);
    put(&mut diff, '+', &new[head..new.len() - tail]);
    put(&mut diff, ' ', &old[old.len() - tail..after]);
    if after < old.len() {
        diff += GAP;
    }
    diff
}

/// A whole text that is new.
pub fn added(text: &str) -> String {
    between("", text)
}

/// A whole text that goes.
pub fn removed(text: &str) -> String {
    between(text, "")
}

/// The changes of a unified patch of one file, without what names the file and counts lines. A
/// text that has no hunks is taken for new.
pub fn of_patch(patch: &str) -> String {
    if !patch.lines().any(|line| line.starts_with("@@")) {
        return added(patch);
    }
    let mut diff = String::new();
    let mut hunks = 0_usize;
    for line in patch.split_terminator('\n') {
        if line.starts_with("@@") {
            hunks += 1;
            if hunks > 1 {
                diff += GAP;
            }
        } else if hunks > 0 && !line.starts_with('\\') {
            // Some tools strip the blank of an empty line.
            let mark = if line.starts_with(['+', '-', ' ']) { "" } else { " " };
            diff.extend([mark, line, "\n"]);
        }
    }
    diff
}

fn put(diff: &mut String, mark: char, lines: &[&str]) {
    for line in lines {
        diff.push(mark);
        diff.push_str(line.trim_end_matches('\n'));
        diff.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(old: &str, new: &str, expected: &str) {
        assert_eq!(between(old, new), expected);
    }

    #[test]
    fn only_what_differs_is_marked() {
        check("", "", "");
        check("a", "b", "-a\n+b\n");
        check("", "a\nb\n", "+a\n+b\n");
        check("a\nb\n", "", "-a\n-b\n");
        check("a\nb\nc", "a\nx\ny\nc", " a\n-b\n+x\n+y\n c\n");
        check("a\na", "a\na\na", " a\n a\n+a\n");
        check(
            "1\n2\n3\n4\nx\n5\n6\n7\n8",
            "1\n2\n3\n4\ny\n5\n6\n7\n8",
            " …\n 2\n 3\n 4\n-x\n+y\n 5\n 6\n 7\n …\n",
        );
    }

    #[test]
    fn line_ends_are_changes_too() {
        check("a\nb\n", "a\nb", " a\n-b\n+b\n");
        check("a\r\nb", "a\nb", "-a\r\n+a\n b\n");
    }

    #[test]
    fn a_patch_loses_its_headers_and_nothing_else() {
        let patch = "Index: /p/a\n====\n--- /p/a\n+++ /p/a\n@@ -1,2 +1,2 @@\n a\n--- x\n+++ y\n\n@@ -9 +9 @@\n-c\n\\ No newline at end of file\n";
        assert_eq!(of_patch(patch), " a\n--- x\n+++ y\n \n …\n-c\n");
        assert_eq!(of_patch("hello\n"), "+hello\n");
        assert_eq!(removed("hello\n"), "-hello\n");
    }

    proptest! {
        /// A person decides by the diff: it must not hide anything.
        #[test]
        fn every_new_line_that_is_not_old_is_shown(
            old in prop::collection::vec("[abc]", 0..12),
            new in prop::collection::vec("[abc]", 0..12),
        ) {
            let diff = between(&old.join("\n"), &new.join("\n"));
            let count = |mark| diff.lines().filter(|line| line.starts_with(mark)).count();
            prop_assert_eq!(count('+') + old.len(), count('-') + new.len());
            prop_assert_eq!(diff.contains(['+', '-']), old != new);
        }
    }
}
