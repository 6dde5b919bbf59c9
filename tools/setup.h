/* From options to an open engine and to the settings of a session. */
#ifndef OUTRIDER_SETUP_H
#define OUTRIDER_SETUP_H

#include "tools/options.h"
#include "tools/tools.h"

/* --spec-type: bits in the order of the option table. */
enum spec_type { SPEC_AUTO = 1, SPEC_DRAFT = 2, SPEC_NGRAM = 4, SPEC_SELF = 8, SPEC_NONE = 16 };

/* Folders of the pair: as given, else the shipped one beside the program. Without a draft, draft is empty. */
struct pair {
    char model[4096], draft[4096];
};
int setup_pair(const struct options *o, struct pair *out);

enum { CHAT_SESSIONS = 9 }; /* eight branches, and one that is being loaded */

/* Opens with a progress bar. */
int setup_engine(const struct options *o, outrider_engine **out);
/* With room for so many sessions at least. */
int setup_engine_for(const struct options *o, int32_t sessions, outrider_engine **out);

/* --sandbox, once all files that the command needs are open. With `automatic` K what it goes by is measured
 * before, for that is kept in a file. A command that opens further models, or none (engine NULL), may read
 * on. */
int setup_sandbox(const struct options *o, outrider_engine *engine, bool automatic);

/* The model's defaults, overridden by what was given. out->stop points into *o; out->logit_bias is owned:
 * free it with setup_settings_free. */
int setup_settings(const struct options *o, const outrider_engine *engine, outrider_settings *out);
void setup_settings_free(outrider_settings *settings);

/* The value that a session takes for an option of sampling that was not given, as a user would write it;
 * *of_model when the model's file says it. False for other options. */
bool setup_default(enum option_id id, const outrider_settings *model, char *out, size_t size, bool *of_model);

/* The path of `name` in the user's folder of a kind: $ENV/outrider, or ~/FALLBACK/outrider without the
 * variable. False when there is no home for it. */
bool user_file_path(const char *env, const char *fallback, const char *name, char *out, size_t size);
/* The same, and makes the folders, 0700. */
bool setup_user_file(const char *env, const char *fallback, const char *name, char *out, size_t size);

#endif
