package resource

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// sayings are faults that the library tells apart well enough, in words that say what
// was wanted and what to write instead. What was found ends before one of until.
var sayings = []struct{ library, message, hint, until string }{
	{"block sequence entries are not allowed", "wanted a value on the line of its key", `begin the list on the next line, or write [a, b]; quote text that begins with "- "`, ""},
	{"comment without preceding whitespace", "wanted nothing more on this line", "put a space before #", ""},
	{"content after document-end marker", "wanted nothing more on this line", "", ""},
	{"expected comment or line break", "wanted the end of the line after | or >", "begin the text on the next line, or quote text that begins with | or >", ""},
	{"cannot start any token", "wanted a value", "put text that begins with @, % or ` in quotes", " ,]}"},
	{"unknown anchor", "wanted an alias of an anchor that stands before it", "put text that begins with * in quotes", " ,]}"},
	{"alphabetic or numeric", "wanted a value", "put text that begins with * or & in quotes", " ,]}"},
	{"directive", "wanted the end of the document before a directive", "put text that begins with % in quotes", ""},
	{"undefined tag handle", "tags are not supported", "remove it, or put text that begins with ! in quotes", " ,]}"},
}

// directive finds a line such as %YAML 1.2 that no "---" follows.
var directive = regexp.MustCompile(`^(?:[ \t]*(?:#.*)?\n)*()%`)

// explain turns an error of the library into a problem. What is not known here keeps
// the words of the library.
func (r *reader) explain(err error) Problem {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		return r.problem(span{r.part.start, r.part.start + 1}, err.Error(), "")
	}
	text := r.text[:int(r.part.start)+len(strings.TrimRight(r.text[r.part.start:r.part.end], " \t\n"))]
	at, from := int(r.at(e.Mark.Line, e.Mark.Column)), int(r.at(e.ContextMark.Line, e.ContextMark.Column))
	ended := at >= len(text)
	at, from = min(at, len(text)), min(from, len(text))
	lineStart := strings.LastIndexByte(text[:at], '\n') + 1
	before, rest := text[lineStart:at], restOfLine(text[at:])
	begins := strings.TrimLeft(before, " ") // what this line begins with
	found := clip(rest)
	if ended {
		found = "the end of the document"
	}
	is := func(message string) bool { return strings.Contains(e.Message, message) }
	problem := func(at int, marked, hint, format string, args ...any) Problem {
		return r.problem(span{int32(at), int32(at + max(1, len(marked)))}, fmt.Sprintf(format, args...), hint)
	}
	above := func() Pos { // where the last line before this one begins that is not empty
		lines := strings.TrimRight(text[:lineStart], " \t\n")
		start := strings.LastIndexByte(lines, '\n') + 1
		return r.pos(int32(len(lines) - len(strings.TrimLeft(lines[start:], " \t"))))
	}

	if d := directive.FindStringSubmatchIndex(text[r.part.start:]); d != nil {
		at := int(r.part.start) + d[2]
		return problem(at, restOfLine(text[at:]), "remove the line", "wanted --- on the line after a directive")
	}
	switch {
	case strings.HasPrefix(rest, "\t") && (is(" tab ") || is("cannot start any token")):
		return problem(at, "", "indent with spaces", "found a tab where indentation carries meaning")

	case is("unexpected end of stream"), is("unexpected document indicator"):
		return problem(from, restOfLine(text[from:]), "close the quote", "the quote that opens here is never closed")

	case is("unknown escape"), is("escape code"), is("hexadecimal"):
		start := lineStart + max(0, strings.LastIndexByte(text[lineStart:min(at+1, len(text))], '\\'))
		escape := fmt.Sprintf("%.2s", text[start:])
		if !is("unknown escape") {
			escape, _, _ = strings.Cut(fmt.Sprintf("%.6s", text[start:]), `"`)
		}
		return problem(start, escape, `write the character itself, \\ for a backslash, or use single quotes`, "%s is not an escape", clip(escape))

	case is("expected ',' or") && from < len(text):
		open := text[from] // ] and } follow two places behind [ and {
		if ended {
			return problem(from, "", fmt.Sprintf(`write "%c" where it ends`, open+2), `this "%c" is never closed`, open)
		}
		return problem(at, "", fmt.Sprintf(`the "%c" was opened in line %d`, open, r.pos(int32(from)).Line), `wanted "," or "%c", found %s`, open+2, found)

	case is("expected node content") && ended:
		// Two texts in a row, so that the library says which bracket is open.
		if _, again := compose(text[r.part.start:] + "\n '' ''"); again != nil && !strings.Contains(again.Error(), "node content") {
			return r.explain(again)
		}

	case is("expected node content"):
		hint := "put it in quotes if it is text"
		switch {
		case strings.HasPrefix(rest, ","):
			hint = "remove one comma"
		case strings.HasPrefix(rest, "- "):
			hint = "write [a, b] without dashes"
		}
		return problem(at, "", hint, "wanted a value, found %s", found)

	case is("expected ':'"):
		key, hint := restOfLine(text[from:]), ""
		if strings.Contains(key, ":") {
			hint = "put a space after the colon"
		}
		return problem(from, key, hint, `wanted "key: value", found %s`, clip(key))

	case is("mapping values are not allowed") && strings.Contains(before, ": "):
		return problem(at, "", `put text that contains ": " in quotes, or begin the second key on the next line`, "found a second colon on the line of a key")

	case is("mapping values are not allowed") && strings.HasPrefix(begins, "- "):
		return problem(at-len(begins), "", fmt.Sprintf("the text of line %d goes on here; begin the list on the line after its key", above().Line),
			`found the "- " of a list inside of text`)

	case is("mapping values are not allowed"):
		return problem(at-len(begins), begins, fmt.Sprintf("the text of line %d goes on here; indent this line less", above().Line),
			"found the key %s inside of text", clip(begins))

	case is("expected <document start>") && begins == "":
		return problem(at, rest, "write --- on a line of its own between two documents", "wanted the end of the document, found %s", found)

	case is("expected key") && begins == "", is("expected '-' indicator") && begins == "":
		if e.Mark.Column != e.ContextMark.Column {
			return problem(at, rest, fmt.Sprintf("line it up with the lines it belongs to; line %d begins in column %d", above().Line, above().Col),
				"the indentation of this line fits no line above")
		}
		want := "a key"
		if is("'-'") {
			want = `"- "`
		}
		return problem(at, rest, "", "wanted %s as in line %d, found %s", want, r.pos(int32(from)).Line, found)

	case is("expected key"), is("expected <document start>"):
		hint := "put all of the text in quotes if this belongs to it"
		if strings.HasPrefix(rest, ":") {
			hint = "put a space after the colon"
		}
		return problem(at, rest, hint, "wanted nothing more on this line, found %s", found)
	}
	switch { // where the fault begins, instead of where the library saw it
	case is("directive"):
		rest, at = restOfLine(text[lineStart:]), lineStart
	case is("alphabetic or numeric"):
		rest, at = restOfLine(text[from:]), from
	}
	for _, s := range sayings {
		if is(s.library) {
			if i := strings.IndexAny(rest, s.until); i > 0 {
				rest = rest[:i]
			}
			return problem(at, rest, s.hint, "%s, found %s", s.message, clip(rest))
		}
	}
	message := e.Message
	if e.ContextMsg != "" && message != errTooDeep.Error() {
		message = e.ContextMsg + ": " + message
	}
	return problem(at, "", "", "%s", message)
}

func restOfLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimRight(line, " \t")
}
