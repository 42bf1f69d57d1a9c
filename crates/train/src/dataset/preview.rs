use evalign_lm::{LmError, Tokenizer};

use crate::{Item, Sequence};

/// What stands around text that is trained.
const TRAINED: [&str; 2] = ["⟦", "⟧"];

/// An item as text, for people: what is trained stands between `⟦` and `⟧`, special tokens are written out.
///
/// # Errors
/// Ids that the tokeniser cannot turn back into text.
pub fn preview(item: &Item, tokenizer: &Tokenizer) -> Result<String, LmError> {
    let names: &[&str] = match item {
        Item::Pair { .. } => &["chosen", "rejected"],
        Item::Single { desirable: Some(true), .. } => &["wanted"],
        Item::Single { desirable: Some(false), .. } => &["unwanted"],
        Item::Single { desirable: None, .. } => &["text"],
    };
    let mut lines = Vec::new();
    for (name, sequence) in names.iter().zip(item.sequences()) {
        let trained = sequence.trained.iter().filter(|trained| **trained).count();
        lines.push(format!("  {name}: {} tokens, {trained} trained", sequence.ids.len()));
        lines.push(
            marked(sequence, tokenizer)?.lines().map(|line| format!("    {line}\n")).collect::<String>(),
        );
    }
    Ok(lines.join("\n"))
}

fn marked(sequence: &Sequence, tokenizer: &Tokenizer) -> Result<String, LmError> {
    let mut text = String::new();
    let mut start = 0;
    while start < sequence.ids.len() {
        let trained = sequence.trained[start];
        let length = sequence.trained[start..].iter().take_while(|other| **other == trained).count();
        let part = tokenizer.decode(&sequence.ids[start..start + length], false)?;
        match trained {
            true => text.extend([TRAINED[0], &part, TRAINED[1]]),
            false => text.push_str(&part),
        }
        start += length;
    }
    Ok(text)
}
