mod golden;
mod made_up;
