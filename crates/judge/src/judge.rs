use std::fmt;
use std::sync::Arc;

use evalign_core::{
    AnswerForm, Digest, GenerateParams, Request, RequestKind, Response, ResponseFormat, SampleKey,
    sample_seed,
};
use evalign_model::{ErrorKind, Model, ModelError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::JudgeError;
use crate::fence::Fence;
use crate::insist::Insisting;
use crate::prompts::{Prompts, for_model};
use crate::rubric::{Rubric, Shown};
use crate::verdict::{Unscored, Verdict};

/// Raised whenever code of this crate changes a verdict or what a judge is asked.
pub const JUDGE_VERSION: u32 = 1;

/// How a judge is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeOptions {
    pub seed: u64,
    /// 0 asks for the judge's one opinion; above it repeats differ.
    pub temperature: f64,
    /// Longest explanation, instead of the rubric's.
    pub explanation_tokens: Option<u32>,
    /// How often an answer that is no verdict is asked for again.
    pub retries: u32,
    /// Hold the model to the form of a verdict. Off, it is only told the form.
    pub constrained: bool,
}

impl JudgeOptions {
    /// How a verdict of this form is asked for; the seed is each request's own.
    #[must_use]
    pub fn params(&self, format: ResponseFormat) -> GenerateParams {
        GenerateParams {
            // A server does not count the tokens of an explanation: some more do not cut its verdict off.
            max_tokens: format.max_tokens().saturating_mul(2),
            temperature: self.temperature,
            seed: self.seed,
            logprobs: true,
            form: self.constrained.then_some(AnswerForm::Fields(format)),
            ..GenerateParams::default()
        }
    }
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self { seed: 1234, temperature: 0.0, explanation_tokens: None, retries: 2, constrained: true }
    }
}

/// What is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Material<'a> {
    /// What was asked.
    pub prompt: &'a str,
    /// A right answer.
    pub reference: Option<&'a str>,
    /// The passages that an answer was to be based on.
    pub context: Option<&'a str>,
}

/// A model that judges by a rubric.
pub struct Judge {
    model: Arc<dyn Model>,
    rubric: Rubric,
    prompts: Arc<Prompts>,
    options: JudgeOptions,
    special_tokens: Vec<String>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("model", &self.model.identity().reference)
            .field("rubric", &self.rubric.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Judge {
    /// # Errors
    /// A model that does not generate text.
    pub fn new(
        model: Arc<dyn Model>,
        rubric: Rubric,
        prompts: Arc<Prompts>,
        options: JudgeOptions,
    ) -> Result<Self, JudgeError> {
        if !model.capabilities().generate {
            return Err(JudgeError::Model(ModelError::Unsupported {
                model: model.identity().reference.to_string(),
                what: "does not generate text, and a judge has to".to_owned(),
                hint: Some("name another judge".to_owned()),
            }));
        }
        let special_tokens = model.special_tokens();
        let asked = (options.retries, options.constrained);
        let model: Arc<dyn Model> = Arc::new(Insisting::new(model, prompts.clone(), asked));
        Ok(Self { model, rubric, prompts, options, special_tokens })
    }

    /// The model, asking again where an answer is no verdict.
    #[must_use]
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    #[must_use]
    pub fn rubric(&self) -> &Rubric {
        &self.rubric
    }

    #[must_use]
    pub fn options(&self) -> &JudgeOptions {
        &self.options
    }

    /// SHA-256 of everything but the model that verdicts depend on: rubric, templates, options, code.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let options = &self.options;
        let mut asked = json!({
            "version": JUDGE_VERSION,
            "rubric": self.rubric.digest(),
            "prompts": self.prompts.digest(),
            "temperature": options.temperature,
            "explanation_tokens": options.explanation_tokens,
            "retries": options.retries,
            "constrained": options.constrained,
        });
        if !self.is_chat() {
            // Once without the names of the roles.
            asked["roles"] = json!("named");
        }
        Digest::of_json(&asked)
    }

    fn is_chat(&self) -> bool {
        self.model.capabilities().chat
    }

    #[must_use]
    pub fn pointwise_format(&self) -> ResponseFormat {
        self.rubric.pointwise_format(self.options.explanation_tokens)
    }

    #[must_use]
    pub fn pairwise_format(&self) -> ResponseFormat {
        self.rubric.pairwise_format(self.options.explanation_tokens)
    }

    /// The request for a verdict on answers, which are shown in the order given.
    pub(crate) fn request(
        &self,
        key: SampleKey,
        material: &Material<'_>,
        answers: &[(&str, &str)],
    ) -> Result<Request, JudgeError> {
        let pairwise = answers.len() > 1;
        let format = if pairwise { self.pairwise_format() } else { self.pointwise_format() };
        let mut blocks = vec![("prompt", material.prompt)];
        blocks.extend(self.beside(material)?.into_iter().flatten());
        blocks.extend_from_slice(answers);
        let texts: Vec<&str> = blocks.iter().map(|(_, text)| *text).collect();
        let fence = Fence::around(&texts, self.options.seed, &self.special_tokens);
        let prompt = self.prompts.ask(&self.rubric, &format, (&fence, &blocks), pairwise)?;
        let seed = sample_seed(self.options.seed, &key);
        let params = GenerateParams {
            seed,
            // Also where the model is not held to it: whoever reads the answer goes by it.
            form: Some(AnswerForm::Fields(format.clone())),
            ..self.options.params(format)
        };
        let prompt = for_model(prompt, self.is_chat());
        Ok(Request { key, kind: RequestKind::Generate { prompt, params } })
    }

    /// Whether the rubric can be used with this material: what a request about it would fail with otherwise, without
    /// making one.
    ///
    /// # Errors
    /// Material that the rubric cannot be used with.
    pub fn check(&self, material: &Material<'_>) -> Result<(), JudgeError> {
        self.beside(material).map(drop)
    }

    /// What a judge is shown beside the prompt and the answers: context and reference.
    fn beside<'a>(
        &self,
        material: &Material<'a>,
    ) -> Result<[Option<(&'static str, &'a str)>; 2], JudgeError> {
        Ok([
            self.shown("context", self.rubric.context, material.context)?,
            self.shown("reference answer", self.rubric.reference, material.reference)?,
        ])
    }

    fn shown<'a>(
        &self,
        name: &'static str,
        shown: Shown,
        text: Option<&'a str>,
    ) -> Result<Option<(&'static str, &'a str)>, JudgeError> {
        match (shown, text) {
            (Shown::None, _) | (Shown::Optional, None) => Ok(None),
            (Shown::Optional | Shown::Required, Some(text)) => Ok(Some((name, text))),
            (Shown::Required, None) => Err(JudgeError::material(
                format!("rubric `{}` judges with a {name}, and this material has none", self.rubric.name),
                "give every row one, or choose another rubric",
            )),
        }
    }

    /// Asks everything together and gives the answers back in the order of the requests.
    pub(crate) async fn ask_all(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<Response, ModelError>>, JudgeError> {
        let mut answers: Vec<Option<Result<Response, ModelError>>> = requests.iter().map(|_| None).collect();
        let mut replies = self.model.submit(requests);
        while let Some((index, answer)) = replies.next().await {
            match answer {
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error.into()),
                answer => {
                    if let Some(place) = answers.get_mut(index) {
                        *place = Some(answer);
                    }
                }
            }
        }
        answers.into_iter().collect::<Option<Vec<_>>>().ok_or(JudgeError::JudgeGone)
    }
}

/// The verdict of an answered or failed call.
pub(crate) fn read(
    format: &ResponseFormat,
    answer: &Result<Response, ModelError>,
) -> Result<Verdict, Unscored> {
    match answer {
        Ok(response) => Verdict::read(format, &response.output),
        Err(error) => Err(Unscored::Failed(error.to_string())),
    }
}
