# The manual page outrider(3) from runtime/outrider.h: its opening comment, then its declarations, section by
# section as the header draws them. Call with -v version=X.
function plain(line) { gsub(/\\/, "\\e", line); gsub(/-/, "\\-", line); sub(/^[.']/, "\\\\\\&&", line); return line }
BEGIN {
    printf ".TH OUTRIDER 3 \"\" \"outrider %s\" \"Library Functions\"\n.SH NAME\n", version
    print "outrider \\- speculative decoding of large language models"
    print ".SH SYNOPSIS\n.nf\n#include <outrider.h>\n\ncc program.c $(pkg\\-config \\-\\-cflags \\-\\-libs outrider)\n.fi"
    print ".SH DESCRIPTION\n.nf"
    state = "comment"
}
state == "comment" { line = $0; sub(/^\/?\*+ ?/, "", line); sub(/^ \*\/? ?/, "", line); print plain(line)
    if ($0 ~ /\*\//) { print ".fi"; state = "skip" } next }
/^\/\* ---- .* ---- \*\/$/ { name = $0; gsub(/^\/\* ---- | ---- \*\/$/, "", name); if (open) print ".fi"
    printf ".SH %s\n.nf\n", toupper(name); open = 1; state = "body"; next }
/^#|^extern "C"|^}$/ { next }
state == "body" { print plain($0) }
END { if (open) print ".fi"; print ".SH SEE ALSO\n.BR outrider (1)" }
