# Makes the root folder of an image's layer from a package of npm's registry and what its own lock file says it depends on.
#
#   build.sh DIR PACKAGE VERSION NODE_PACKAGE NODE_GYP      leaves DIR/root, DIR/app and DIR/tools
set -eu
cd "$1"
mkdir app root tools

npm pack --silent "$2@$3" >/dev/null
tar --extract --gzip --file ./*.tgz --directory app --strip-components=1 --no-same-owner
pnpm=$(sed -n 's/.*"packageManager": *"\(pnpm@[0-9.]*\).*/\1/p' app/package.json)
[ -n "$pnpm" ] || { echo "$2@$3 names no version of pnpm in its package.json" >&2; exit 1; }
npm install --silent --no-audit --no-fund --prefix tools "$4" "$pnpm" "node-gyp@$5"

node=$PWD/tools/node_modules/${4%@*}
export PATH="$node/bin:$PWD/tools/node_modules/.bin:$PATH"
# Its headers are in the package; without this node-gyp fetches them from elsewhere, and an optional package fails without
# a word.
export npm_config_nodedir="$node" JOBS=max
cd app
pnpm install --prod --frozen-lockfile --store-dir ../store --reporter append-only
