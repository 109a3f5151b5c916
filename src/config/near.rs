//! Words that are almost another one: misspelled keys, commands and options.

/// The one of `known` that is nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let most = if word.chars().count() < 5 { 1 } else { 2 };
    let near = known.into_iter().map(|it| (distance(&lower, &it.to_lowercase()), it));
    near.filter(|(far, _)| *far <= most).min().map(|(_, it)| it)
}

/// How many letters are to be added, left out, replaced or exchanged with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Keys are short; what is not is not near to any.
    if a.len().abs_diff(b.len()) > 2 || a.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(x != y);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        let known = ["permissions", "baseUrl", "agent", "agents", "usage"];
        for (word, meant) in [
            ("permisions", Some("permissions")),
            ("baseURL", Some("baseUrl")),
            ("bsaeUrl", Some("baseUrl")),
            ("agnet", Some("agent")),
            ("Agents", Some("agents")),
            ("theme", None),
            ("use", None),
            ("", None),
            (&"x".repeat(10_000), None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
