package whytest

import (
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/whygate/whygate/"

// layers says which of our packages each package may import, and why no more. Dependencies run
// one way, so that each part can be read, tested and replaced without those above it.
var layers = map[string]struct {
	may []string
	why string
}{
	"reason":      {nil, "everybody speaks of reasons; they know nobody"},
	"resource":    {nil, "documents are read by people's editors and tests too, without a gateway"},
	"calllog":     {nil, "records must be readable by whoever has the files"},
	"metric":      {nil, "counting is on the path of every call"},
	"wire":        {nil, "HTTP has no opinion on policies; it can be fuzzed alone"},
	"counter":     {nil, "the arithmetic of limits is the same wherever they are kept"},
	"consumer":    {[]string{"reason"}, "who calls is known without HTTP"},
	"policy":      {[]string{"reason", "resource", "consumer", "counter", "wire"}, "a policy sees an Exchange, not the gateway: no stores, no upstreams, no admin"},
	"upstream":    {[]string{"reason", "resource", "wire"}, "choosing a target needs no policy"},
	"snapshot":    {[]string{"reason", "resource", "consumer", "counter", "metric", "policy", "upstream", "wire"}, "compiling documents needs no listener and no record"},
	"pinpoint":    {nil, "the doctor's knowledge is data and arithmetic: what sends, reads files or parses stands in its subpackages"},
	"gateway":     {[]string{"reason", "resource", "calllog", "consumer", "counter", "metric", "pinpoint", "policy", "snapshot", "upstream", "wire"}, "the data plane knows no SQL, no templates of consoles, no admin; of the doctor it needs the knowledge alone, not what sends requests or reads machines"},
	"admin":       {[]string{"reason", "resource", "calllog", "counter", "gateway", "metric"}, "operators ask the gateway; it does not ask them"},
	"apache":      {[]string{"pinpoint"}, "a reader of configurations decides from files alone"},
	"input":       {[]string{"pinpoint"}, "what people hand in is read without sending anything"},
	"machine":     {[]string{"pinpoint"}, "looking at a server knows no request but the one that is asked about"},
	"nginx":       {[]string{"pinpoint"}, "a reader of configurations decides from files alone"},
	"replay":      {[]string{"pinpoint"}, "what is sent is decided in one place, by the rules of safety alone"},
	"report":      {[]string{"pinpoint"}, "a report tells a verdict and finds out nothing"},
	"servers":     {[]string{"pinpoint"}, "a reader of configurations decides from files alone"},
	"own":         {nil, "scenarios, all of them tests"},
	"rig":         {nil, "scenarios, all of them tests"},
	"waf":         {[]string{"pinpoint"}, "a firewall is asked through a Sender, whoever that is"},
	"diagnose":    {[]string{"pinpoint", "pinpoint/apache", "pinpoint/input", "pinpoint/machine", "pinpoint/nginx", "pinpoint/replay", "pinpoint/servers", "pinpoint/waf"}, "it wires the parts of the doctor; how they are told is for commands"},
	"examples":    {nil, "documents"},
	"whytest":     {[]string{"consumer", "policy", "reason", "upstream", "resource", "calllog", "counter", "gateway", "snapshot", "wire"}, "only tests import it"},
	"issuer":      {nil, "an OpenID provider for tests knows nothing of the gateway that they test"},
	"redisserver": {nil, "only tests import it"},
	"suite":       {nil, "the suites of others know nothing of what they test"},
	"bench":       {nil, "it measures binaries, like those of the peers"},
	"docs":        {nil, "texts"},
	"reference":   {nil, "texts"},
}

func TestImports(t *testing.T) {
	err := filepath.WalkDir("..", func(dir string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name == "testdata" || name == "tools" || name == "bin" || strings.HasPrefix(name, ".") && name != ".." {
			return filepath.SkipDir
		}
		p, err := build.ImportDir(dir, 0)
		if err != nil {
			return nil // no Go files
		}
		name := filepath.Base(dir)
		if strings.HasPrefix(filepath.ToSlash(dir), "../cmd/") {
			return nil // wires everything; nobody imports it
		}
		if parent := filepath.Base(filepath.Dir(dir)); parent == "resource" || parent == "docs" {
			name = parent
		}
		layer, ok := layers[name]
		if !ok {
			t.Errorf("package %s is not in the list of layers; say there what it may import and why", dir)
			return nil
		}
		for _, imp := range p.Imports {
			rest, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			top, part, _ := strings.Cut(rest, "/")
			if top == "pinpoint" && part != "" { // its parts are packages of their own kind
				top = rest
			}
			if top != name && !slices.Contains(layer.may, top) {
				t.Errorf("%s imports %s: %s", dir, rest, layer.why)
			}
			if top == "whytest" || top == "cmd" {
				t.Errorf("%s imports %s: only tests do", dir, rest)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
