package replay

import (
	"bytes"
	"mime"
	"regexp"
	"strconv"
	"strings"
)

// A twin is a body of the same shape with harmless content: names, structure, types and lengths stay;
// letters and signs become a, digits 1.

// maxTwin is the largest body of which a twin is made.
const maxTwin = 8 << 20

// twin is the harmless twin of a body, nil if none can be made.
func twin(ctype string, body []byte) []byte {
	if len(body) > maxTwin {
		return nil
	}
	body = unsealed(body)
	media, params, _ := mime.ParseMediaType(ctype)
	switch {
	case media == "application/x-www-form-urlencoded":
		return twinForm(body)
	case media == "multipart/form-data" && params["boundary"] != "":
		return twinMultipart(body, params["boundary"])
	case strings.HasSuffix(media, "json") || looksJSON(body):
		return twinJSON(body)
	case strings.HasSuffix(media, "xml"):
		return twinXML(body)
	}
	return mask(bytes.Clone(body))
}

// resized is a twin of about n bytes: values are cut to a length that fits, or one is drawn out.
func resized(ctype string, body []byte, n int) []byte {
	t := twin(ctype, body)
	if t == nil || n <= 0 {
		return nil
	}
	longest := longestRun(t)
	run := longest[1] - longest[0]
	if n >= len(t) {
		return bytes.Join([][]byte{t[:longest[0]], bytes.Repeat([]byte("a"), run+n-len(t)), t[longest[1]:]}, nil)
	}
	for limit := 1024; limit >= 1; limit /= 4 { // the longest values first
		small := valueRuns.ReplaceAllFunc(t, func(v []byte) []byte { return v[:min(len(v), limit)] })
		if len(small) <= n || limit == 1 {
			return small
		}
	}
	return nil
}

var valueRuns = regexp.MustCompile(`a{2,}|1{2,}`)

// longestRun is where most letters a stand in a row: the value that is drawn out.
func longestRun(t []byte) (where [2]int) {
	start := -1
	for i := 0; i <= len(t); i++ {
		if i < len(t) && t[i] == 'a' {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 && i-start > where[1]-where[0] {
			where = [2]int{start, i}
		}
		start = -1
	}
	return where
}

// unsealed puts letters for the placeholders of secrets, as many as the secret had.
func unsealed(body []byte) []byte {
	return sealedLength.ReplaceAllFunc(body, func(mark []byte) []byte {
		n, _ := strconv.Atoi(string(sealedLength.FindSubmatch(mark)[1]))
		return bytes.Repeat([]byte("a"), min(n, 64<<10))
	})
}

// mask changes a text in place. Line ends stay.
func mask(b []byte) []byte {
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			b[i] = '1'
		case c == '\n' || c == '\r':
		default:
			b[i] = 'a'
		}
	}
	return b
}

func looksJSON(body []byte) bool {
	t := bytes.TrimLeft(body, " \t\r\n")
	return len(t) > 0 && (t[0] == '{' || t[0] == '[')
}

// twinJSON masks strings that are values, and numbers. Names of members stay. It needs no valid JSON.
func twinJSON(body []byte) []byte {
	out := bytes.Clone(body)
	for i := 0; i < len(out); {
		switch c := out[i]; {
		case c == '"':
			end := i + 1
			for end < len(out) && out[end] != '"' {
				if out[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end, len(out))
			after := end + 1
			for after < len(out) && strings.IndexByte(" \t\r\n", out[after]) >= 0 {
				after++
			}
			if after >= len(out) || out[after] != ':' {
				mask(out[i+1 : end])
				for j := i + 1; j < end; j++ { // a line end in a string is none
					if out[j] == '\n' || out[j] == '\r' {
						out[j] = 'a'
					}
				}
			}
			i = end + 1
		case c >= '0' && c <= '9':
			for i < len(out) && strings.IndexByte("0123456789.eE+-", out[i]) >= 0 {
				if out[i] >= '0' && out[i] <= '9' {
					out[i] = '1'
				}
				i++
			}
		default:
			i++
		}
	}
	return out
}

var formEscape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func twinForm(body []byte) []byte {
	pairs := bytes.Split(body, []byte("&"))
	for i, p := range pairs {
		name, value, has := bytes.Cut(p, []byte("="))
		if has {
			pairs[i] = bytes.Join([][]byte{name, mask(formEscape.ReplaceAll(bytes.Clone(value), []byte("a")))}, []byte("="))
		}
	}
	return bytes.Join(pairs, []byte("&"))
}

// twinMultipart masks the content of the parts and leaves their headers.
func twinMultipart(body []byte, boundary string) []byte {
	mark := []byte("--" + boundary)
	chunks := bytes.Split(body, mark)
	for i, c := range chunks {
		if i == 0 || bytes.HasPrefix(c, []byte("--")) {
			continue
		}
		at, n := bytes.Index(c, []byte("\r\n\r\n")), 4
		if at < 0 {
			at, n = bytes.Index(c, []byte("\n\n")), 2
		}
		if at < 0 {
			continue
		}
		content := bytes.Clone(c[at+n:])
		tail := len(bytes.TrimRight(content, "\r\n"))
		mask(content[:tail])
		chunks[i] = append(bytes.Clone(c[:at+n]), content...)
	}
	return bytes.Join(chunks, mark)
}

// twinXML masks text and the values of attributes; names, and what stands in <? and <! >, stay.
func twinXML(body []byte) []byte {
	out := bytes.Clone(body)
	tag, quote, special := false, byte(0), false
	for i, c := range out {
		switch {
		case !tag && c == '<':
			tag, quote = true, 0
			special = i+1 < len(out) && (out[i+1] == '?' || out[i+1] == '!')
		case !tag:
			if c > ' ' {
				mask(out[i : i+1])
			}
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			if !special {
				mask(out[i : i+1])
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			tag = false
		}
	}
	return out
}
