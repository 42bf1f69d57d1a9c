use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Alarm, Answer, Job, SampledText, TrainError};

const FILE: &str = "samples.json";

/// Answers of the model to a few prompts of the data, before and after training.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Samples {
    pub(super) texts: Vec<SampledText>,
    /// Mean tokens of an answer before training.
    tokens_before: f64,
    #[serde(skip)]
    prompts: Vec<Vec<u32>>,
    /// Tokens that were read and written for answers, and not told of yet.
    #[serde(skip)]
    read: u64,
}

impl Samples {
    /// Answers before training, those of an earlier session where there are any.
    pub(super) fn before(job: &Job, out: &Path) -> Result<Self, TrainError> {
        let prompts = job.prompts();
        let known = fs_err::read(out.join(FILE)).ok();
        if let Some(mut known) = known.and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            && known.texts.len() == prompts.len()
        {
            known.prompts = prompts;
            return Ok(known);
        }
        let answers = job.policy.answers_to(&prompts)?;
        let mut samples = Self {
            texts: Vec::new(),
            tokens_before: mean_tokens(&answers),
            read: Answer::tokens_of(&prompts, &answers),
            prompts,
        };
        for (prompt, before) in samples.prompts.iter().zip(answers) {
            samples.texts.push(SampledText {
                prompt: job.policy.model().tokenizer().decode(prompt, false)?,
                before: before.text,
                after: None,
            });
        }
        samples.write(out)?;
        Ok(samples)
    }

    /// Answers after training; an alarm where their length has drifted and no evaluation has watched it.
    pub(super) fn after(&mut self, job: &Job, out: &Path) -> Result<Option<Alarm>, TrainError> {
        if self.prompts.is_empty() {
            return Ok(None);
        }
        let answers = job.policy.answers_to(&self.prompts)?;
        self.read += Answer::tokens_of(&self.prompts, &answers);
        let tokens = mean_tokens(&answers);
        for (text, after) in self.texts.iter_mut().zip(answers) {
            text.after = Some(after.text);
        }
        self.write(out)?;
        let alarm = Alarm::length_drift(job.updates, self.tokens_before, tokens);
        Ok(alarm.filter(|_| job.evaluation.is_none()))
    }

    /// Tokens that were read and written since this was asked last.
    pub(super) fn take_read(&mut self) -> u64 {
        std::mem::take(&mut self.read)
    }

    fn write(&self, out: &Path) -> Result<(), TrainError> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from)?;
        Ok(fs_err::write(out.join(FILE), text)?)
    }
}

fn mean_tokens(answers: &[Answer]) -> f64 {
    answers.iter().map(|answer| answer.tokens).sum::<usize>() as f64 / answers.len().max(1) as f64
}
