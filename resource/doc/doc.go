// Package doc reads the comments of struct types and their fields from Go source,
// where they are the documentation of what people write. It is a package of its
// own so that programs that only load documents do not carry a Go parser.
package doc

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// Comments returns the comments of all struct types in a folder of Go files, by
// "Type" and "Type.Field". Lines of a paragraph are joined; tests are left out.
func Comments(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading comments: %w", err)
	}
	comments := map[string]string{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".go" || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("reading comments: %w", err)
		}
		for _, d := range file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range decl.Specs {
				if t, ok := s.(*ast.TypeSpec); ok {
					read(comments, decl, t)
				}
			}
		}
	}
	return comments, nil
}

func read(comments map[string]string, decl *ast.GenDecl, t *ast.TypeSpec) {
	st, ok := t.Type.(*ast.StructType)
	if !ok {
		return
	}
	comment := t.Doc
	if comment == nil {
		comment = decl.Doc
	}
	put(comments, t.Name.Name, comment)
	for _, f := range st.Fields.List {
		comment := f.Doc
		if comment == nil {
			comment = f.Comment
		}
		for _, n := range f.Names {
			put(comments, t.Name.Name+"."+n.Name, comment)
		}
	}
}

func put(comments map[string]string, key string, c *ast.CommentGroup) {
	if text := join(c.Text()); text != "" {
		comments[key] = text
	}
}

// join puts the lines of each paragraph together. Indented lines and items of
// lists keep their line.
func join(text string) string {
	var b strings.Builder
	kept := true // the line before ends here
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		keep := line == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "- ")
		if b.Len() > 0 {
			if keep || kept {
				b.WriteByte('\n')
			} else {
				b.WriteByte(' ')
			}
		}
		b.WriteString(line)
		kept = line == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
	}
	return strings.TrimSpace(b.String())
}
