package resource

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Pos is a place in a file. Lines and columns count from 1, columns in
// characters; a Pos without a line stands for the whole file.
type Pos struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"col,omitempty"`
}

// String is "file:line:col", the form that editors open.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Col)
}

// IsZero says that p is nowhere.
func (p Pos) IsZero() bool { return p == Pos{} }

// source is one file as it was read.
type source struct {
	name string
	data []byte // as on disk
	text string // without byte order mark, with LF line breaks: what offsets count in

	once  sync.Once
	lines []int32 // where each line begins
	runes []int32 // characters before each block of text; nil when all is ASCII
}

// runeBlock is how many bytes are counted again to find a column, so that many places
// in a long line cost no more than in short ones.
const runeBlock = 1 << 8

func newSource(name string, data []byte) *source {
	text := strings.TrimPrefix(string(data), "\ufeff")
	if strings.Contains(text, "\r\n") {
		text = strings.ReplaceAll(text, "\r\n", "\n")
	}
	return &source{name: name, data: data, text: text}
}

func (s *source) index() {
	s.lines = []int32{0}
	ascii := true
	for i := 0; i < len(s.text); i++ {
		if c := s.text[i]; c == '\n' {
			s.lines = append(s.lines, int32(i+1))
		} else if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	if ascii {
		return
	}
	n := 0
	for i := 0; i < len(s.text); i += runeBlock {
		s.runes = append(s.runes, int32(n))
		n += countRunes(s.text[i:min(i+runeBlock, len(s.text))])
	}
}

// countRunes counts characters by their first bytes, so that a part may begin or
// end within one. Bytes that are not UTF-8 end the reading of a file before this matters.
func countRunes(s string) (n int) {
	for i := 0; i < len(s); i++ {
		if s[i]&0xc0 != 0x80 {
			n++
		}
	}
	return n
}

func (s *source) runesBefore(off int) int {
	if s.runes == nil {
		return off
	}
	b := min(off/runeBlock, len(s.runes)-1)
	return int(s.runes[b]) + countRunes(s.text[b*runeBlock:off])
}

func (s *source) pos(off int32) Pos {
	s.once.Do(s.index)
	off = min(off, int32(len(s.text)))
	i, exact := slices.BinarySearch(s.lines, off)
	if !exact {
		i--
	}
	col := s.runesBefore(int(off)) - s.runesBefore(int(s.lines[i]))
	return Pos{s.name, i + 1, col + 1}
}

// offset is the opposite of pos. Behind the end of the file it is the end.
func (s *source) offset(line, col int) int32 {
	s.once.Do(s.index)
	if line > len(s.lines) {
		return int32(len(s.text))
	}
	start := int(s.lines[max(line, 1)-1])
	want := s.runesBefore(start) + max(col, 1) - 1 // characters before the place
	if s.runes == nil {
		return int32(min(want, len(s.text)))
	}
	block, _ := slices.BinarySearch(s.runes, int32(want+1))
	off := (block - 1) * runeBlock
	for n := int(s.runes[block-1]); off < len(s.text); off++ {
		if utf8.RuneStart(s.text[off]) {
			if n == want {
				break
			}
			n++
		}
	}
	return int32(off)
}

func (s *source) problem(at span, message, hint string) Problem {
	return Problem{Pos: s.pos(at.start), Message: message, Hint: hint, Len: s.width(at)}
}

// width is how many characters of a part are on its first line.
func (s *source) width(at span) int {
	part := s.text[min(int(at.start), len(s.text)):min(int(at.end), len(s.text))]
	if i := strings.IndexByte(part, '\n'); i >= 0 {
		part = part[:i]
	}
	return max(1, utf8.RuneCountInString(strings.TrimRight(part[:min(len(part), 4096)], " \t")))
}
