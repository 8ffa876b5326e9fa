#include <cstdio>
#include <fstream>
#include <sstream>
#include "execute.hpp"
namespace ptx { bool allocated(u64,u64){return true;} }
int main(int n,char**v){std::map<std::string,int> bad;int ok=0;for(int i=1;i<n;i++){std::ifstream f(v[i]);std::stringstream s;s<<f.rdbuf();std::string t=s.str();try{ptx::Reader r(t);auto k=r.read();ok++;}catch(std::exception&e){if(!bad[e.what()]++)printf("%s: %s\n",v[i],e.what());}}printf("ok %d\n",ok);for(auto&b:bad)printf("%d %s\n",b.second,b.first.c_str());}
