package resource

import (
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whygate/whygate/resource/doc"
)

// TestFieldsGolden lists the public surface: a renamed field, another default or
// another rule is a visible change.
func TestFieldsGolden(t *testing.T) {
	var b strings.Builder
	var list func(prefix string, fields []FieldInfo)
	list = func(prefix string, fields []FieldInfo) {
		for _, f := range fields {
			fmt.Fprintf(&b, "%s%s: %s", prefix, f.Name, f.Type)
			if f.Required {
				b.WriteString(", required")
			}
			if f.Default != "" {
				fmt.Fprintf(&b, ", default %s", f.Default)
			}
			for _, r := range f.Rules {
				b.WriteString(", " + r)
			}
			b.WriteByte('\n')
			list(prefix+f.Name+".", f.Fields)
		}
	}
	list("", Describe(reflect.TypeFor[envelope]()))
	for _, k := range kinds {
		list(k.name+": ", Describe(k.spec))
	}
	golden(t, "testdata/fields.golden", b.String())
}

// TestFieldsAreDocumented: the comments are the reference that people read.
func TestFieldsAreDocumented(t *testing.T) {
	comments, err := doc.Comments(".")
	if err != nil {
		t.Fatal(err)
	}
	var check func(name string, fields []FieldInfo)
	check = func(name string, fields []FieldInfo) {
		if comments[name] == "" {
			t.Errorf("type %s has no comment", name)
		}
		for _, f := range fields {
			if c := comments[f.Key]; c == "" || !strings.HasSuffix(c, ".") {
				t.Errorf("field %s needs a comment that ends with a full stop, has %q", f.Key, c)
			}
			if f.Struct != "" {
				check(f.Struct, f.Fields)
			}
		}
	}
	check("envelope", Describe(reflect.TypeFor[envelope]()))
	check("PolicyEntry", Describe(reflect.TypeFor[PolicyEntry]()))
	for _, k := range kinds {
		check(k.name, Describe(k.spec))
	}
}

// TestDefaultsAndExamplesDecode: what the reference shows can be written.
func TestDefaultsAndExamplesDecode(t *testing.T) {
	var check func(ti *typeInfo)
	check = func(ti *typeInfo) {
		for _, f := range ti.load().fields {
			for tag, text := range map[string]string{"default": f.def, "example": f.example} {
				if text == "" || f.goName == "envelope.Metadata" && tag == "default" {
					continue
				}
				var d decoder
				d.value(Node{doc: &docRef{src: newSource(f.goName, nil)}, value: literal(f.info, text)}, reflect.New(f.info.t).Elem(), f.info, f)
				if len(d.problems) > 0 {
					t.Errorf("%s of %s: %v", tag, f.goName, d.problems)
				}
			}
			if inner := f.inner(); inner.class == asFields {
				check(inner)
			}
		}
	}
	check(infoOf(reflect.TypeFor[envelope]()))
	for _, k := range kinds {
		check(infoOf(k.spec))
	}
}

// TestKindsAreComplete: the envelope, the schema and the loader know the same kinds.
func TestKindsAreComplete(t *testing.T) {
	enum := infoOf(reflect.TypeFor[envelope]()).load().byName["kind"].enum
	if len(enum) != len(kinds) {
		t.Errorf("the envelope has %d kinds, the schema %d", len(enum), len(kinds))
	}
	for i, k := range kinds {
		if enum[i] != k.name {
			t.Errorf("kind %d is %s and %s", i, enum[i], k.name)
		}
		set, _ := Parse(File{"a", fmt.Appendf(nil, "apiVersion: %s\nkind: %s\nmetadata: {name: x}\n", Version, k.name)})
		if len(set.Documents()) != 1 || set.Documents()[0].Document() != k.name+"/x" {
			t.Errorf("the loader does not know %s", k.name)
		}
	}
}

// TestImports keeps the package at the bottom of the house.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if p != "github.com/whygate/whygate/resource" && !strings.HasPrefix(p, "go.yaml.in/yaml/v4") {
			t.Errorf("imports %s: documents are read by every part of the house, from the data plane to the command line, "+
				"so what this package needs, all of them carry", p)
		}
	}
	std, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ path, why string }{
		{"go/parser", "comments are read when the reference is made, not when documents are loaded; that is resource/doc"},
		{"net/http", "a document is never fetched; whoever gets one from elsewhere hands over bytes"},
	} {
		if slices.Contains(strings.Fields(string(std)), p.path) {
			t.Errorf("imports %s: %s", p.path, p.why)
		}
	}
}
