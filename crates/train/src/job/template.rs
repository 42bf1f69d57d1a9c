use evalign_lm::adapter::Adapter;
use evalign_lm::{ChatTemplate, LanguageModel, LoadOptions};

use super::Sources;
use crate::TrainError;

/// The chat template that is used instead of the model's, its source and ready to render: that of a file, or of the adapter
/// that training goes on with. It is kept with what is trained.
pub(super) fn own_template(
    sources: &Sources,
    adapter: Option<&Adapter>,
    model: &LanguageModel,
    load: &LoadOptions,
) -> Result<Option<(String, ChatTemplate)>, TrainError> {
    let tokenizer = model.tokenizer();
    let Some(path) = &sources.chat_template else {
        let Some(adapter) = adapter else { return Ok(None) };
        let template = adapter.template(tokenizer, load.now)?;
        return Ok(adapter.chat_template.clone().zip(template));
    };
    let source = fs_err::read_to_string(path)?;
    match ChatTemplate::parse(&source, tokenizer.bos_text(), tokenizer.eos_text()) {
        Ok(template) => Ok(Some((source, template))),
        Err(error) => Err(TrainError::File {
            path: path.clone(),
            problem: error.to_string(),
            hint: "it has to be a Jinja template of a conversation".to_owned(),
        }),
    }
}
