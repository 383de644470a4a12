//! A lint for the language of the project: comments and documents must be in plain technical English.
//!
//! A list of phrases cannot judge a sentence, and some of the phrases are fine in some places. The lint therefore fails
//! only if more than one in [`LINES_PER_MATCH`] lines has a match. It then prints all matches.

use std::collections::HashMap;

use crate::prose::files;

/// One match is allowed for this number of lines of prose, which is 0.5 %.
const LINES_PER_MATCH: usize = 200;

/// The minimum length of a line that is checked. Shorter lines are list markers or single words. Headings are not
/// checked either.
const MIN_CHARACTERS: usize = 13;

/// Phrases that make a sentence indirect, each with advice on what to write instead. `a/b` are alternatives. `^`
/// matches the start of a sentence whose first word is capitalised, and `.` matches the end of a sentence.
const PHRASES: [(&str, &str); 32] = [
    ("^ what/who/whom/whose/whoever/whatever", "name the subject instead of beginning with a relative clause"),
    ("^ that", "name the subject instead of beginning with a that-clause"),
    ("^ of", "put the subject first"),
    ("^ how far", "name the quantity"),
    ("^ the same", "repeat the sentence or the noun; each comment stands alone"),
    ("^ both .", "write a whole sentence"),
    ("^ all of them .", "write a whole sentence"),
    ("told", "say which message or value is returned, to which client"),
    ("is/are/was/were/be said/asked of", "make the subject act: `the gateway reads`, `the response has`"),
    ("is/are/was/were said", "say where it is written: response, log, document"),
    ("who is/are/was/has/had/does/cannot/must/may", "name the client, caller, worker or gateway"),
    ("who asks/reports/reads/waits/looks/wants/needs/knows", "name the client, caller, worker or gateway"),
    ("who comes/came/goes/went/begins/ends/runs/holds/stands/follows", "name the client, caller, worker or gateway"),
    ("nobody/somebody/anybody/everybody/whoever", "name the client, caller, worker or gateway"),
    ("he/him/his/she/hers", "programs are `it`; repeat the noun for a person"),
    ("stand/stands/stood so/there/here/beside/where/at/in", "use `is`, or the action"),
    ("lie/lies/lay in/so/apart/beside", "use `is`, or the action"),
    ("come/comes/came to", "use the verb itself"),
    ("goes/go by", "use `uses` or `follows`"),
    ("that of", "repeat the noun"),
    ("all that", "use `everything that`, or name it"),
    ("what is/are/was/were not", "name the thing that is missing"),
    ("so long", "give the time, or use `as long as`"),
    ("so as", "use `so that`, or `to`"),
    ("beside it/them/that/the/each/a", "use `next to`, `in addition to` or `besides`"),
    ("anew", "use `again`"),
    ("by way of", "use `through` or `by`"),
    ("to be had", "use `available`"),
    ("behind which", "use `after which`"),
    ("for ever", "use `forever`, or give the bound"),
    ("none of ours", "use `third-party`, or name it"),
    ("therein/thereof/whereby/whence/hence/thence", "use a plain preposition"),
];

#[test]
fn prose_is_plain_english() {
    let phrases = Phrases::new();
    let mut lines = 0;
    let mut matches = vec![];
    for file in files() {
        for (number, text) in file.prose() {
            if text.chars().count() >= MIN_CHARACTERS && !text.starts_with('#') {
                lines += 1;
                let found = phrases
                    .find(text)
                    .map(|(phrase, advice)| format!("{}:{number}: {text}\n        `{phrase}`: {advice}", file.path));
                matches.extend(found);
            }
        }
    }
    assert!(lines > 3_000, "only {lines} lines of prose were found");
    assert!(
        matches.len() * LINES_PER_MATCH <= lines,
        "{} of {lines} lines of prose are indirect, at most {} may be (the list: tests/it/language.rs):\n{}",
        matches.len(),
        lines / LINES_PER_MATCH,
        matches.join("\n")
    );
}

#[test]
fn indirect_sentences_are_found_and_plain_ones_are_not() {
    let phrases = Phrases::new();
    for (text, expected) in [
        ("What is not known is absent.", Some("^ what")),
        ("The counts. Who reads them waits.", Some("^ who")),
        ("- **Of these**, one is kept.", Some("^ of")),
        ("The client is told the end.", Some("told")),
        ("The caller who asks waits.", Some("who asks")),
        ("Both.", Some("^ both .")),
        ("A key that lies in the way", Some("lies in")),
        ("as if it were asked anew", Some("anew")),
        ("The counts show what is stored.", None),
        ("Counts: the same in both stores.", None),
        ("Both stores are read.", None),
        ("`What is told` is a code span.", None),
        ("The history of theses and heroes.", None),
        ("What does a read cost?", None),
    ] {
        assert_eq!(phrases.find(text).map(|(phrase, _)| phrase).as_deref(), expected, "{text}");
    }
}

/// The phrases by their first word. Alternatives are expanded into separate phrases.
struct Phrases(HashMap<&'static str, Vec<(Vec<&'static str>, &'static str)>>);

impl Phrases {
    fn new() -> Self {
        let mut by_first = HashMap::<_, Vec<_>>::new();
        for (phrase, advice) in PHRASES {
            let mut expanded = vec![vec![]];
            for alternatives in phrase.split(' ') {
                let extended = expanded.iter().flat_map(|words: &Vec<&str>| {
                    alternatives.split('/').map(move |word| [&words[..], &[word]].concat())
                });
                expanded = extended.collect();
            }
            for words in expanded {
                by_first.entry(words[0]).or_default().push((words, advice));
            }
        }
        Self(by_first)
    }

    /// The first phrase in a line, and the advice on it.
    fn find(&self, text: &str) -> Option<(String, &'static str)> {
        let words = words(text);
        (0..words.len()).find_map(|start| {
            let phrases = self.0.get(words[start].as_str())?;
            let (phrase, advice) = phrases.iter().find(|(phrase, _)| {
                let rest = words[start..].iter().map(String::as_str);
                phrase.len() <= words.len() - start && phrase.iter().copied().eq(rest.take(phrase.len()))
            })?;
            Some((phrase.join(" "), *advice))
        })
    }
}

/// The words of a line in lower case. `^` comes before each capitalised word that begins a sentence, and `.` ends each
/// sentence. Code spans and questions are left out.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![];
    let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join("code");
    for sentence in prose.split_inclusive(['.', ':', ';', '!', '?']) {
        if sentence.ends_with('?') {
            continue;
        }
        let spoken = sentence.split(|character: char| !character.is_alphanumeric() && character != '\'');
        for (place, word) in spoken.filter(|word| !word.is_empty()).enumerate() {
            if place == 0 && word.starts_with(char::is_uppercase) {
                words.push("^".to_owned());
            }
            words.push(word.to_lowercase());
        }
        if !sentence.ends_with(char::is_alphanumeric) {
            words.push(".".to_owned());
        }
    }
    words
}
