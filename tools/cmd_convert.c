/* outrider convert: a folder to a GGUF file, or a GGUF file to a folder. */
#include <stdio.h>

#include "tools/options.h"
#include "tools/setup.h"
#include "tools/terminal.h"
#include "tools/tools.h"

int cmd_convert(struct options *o) {
    struct pair pair;
    const char *output = o->values[OPT_CONVERT_OUTPUT].text;
    if (!output)
        return complain(OUTRIDER_EINVAL, "convert needs an output: -o NAME.gguf, or -o a new folder");
    CHECK(setup_pair(o, &pair));
    CHECK(setup_sandbox(o, NULL, false));
    struct progress bar = progress_begin(o);
    const outrider_convert_options options = {.model = pair.model,
                                              .output = output,
                                              .type = o->values[OPT_CONVERT_TYPE].text,
                                              .progress = progress_bytes,
                                              .progress_user = &bar};
    outrider_status status = outrider_convert(&options);
    progress_end(&bar);
    return tell(status);
}
